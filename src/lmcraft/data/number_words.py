"""Numbers in words, from one language to another: a translation task with exact truth that needs no download.

    thirty-one thousand, two hundred  →  einunddreißigtausendzweihundert

1. The words come from `num2words`. German says the ones before the tens, so the order of a translation is not that of
   its source, and its numbers below a million are one word, so a model must spell what it has never seen.
2. `alignment` says which characters of the German number stand for which of the English one. That follows from how
   the two are built, and nothing of it is estimated.
3. Everything is a pure function of (n, seed).

Proved by tests/unit/data/test_number_words.py.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from .records import Parallel, Where

LARGEST = 10**9 - 1
JOINED = "; "
# Of a source and of its target: first character and the one after the last.
Link = tuple[tuple[int, int], tuple[int, int]]

_ENGLISH = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
    seventeen eighteen nineteen""".split()
_GERMAN = """null eins zwei drei vier fünf sechs sieben acht neun zehn elf zwölf dreizehn vierzehn fünfzehn sechzehn
    siebzehn achtzehn neunzehn""".split()
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
_ZEHNER = "zwanzig dreißig vierzig fünfzig sechzig siebzig achtzig neunzig".split()
# A piece of a number in one language; pieces with one name in both languages stand for each other.
_Piece = tuple[str, str]


def pairs(
    n: int, seed: int = 0, below: int = 10**6, joined: int = 1, held_out: bool | None = None
) -> list[Parallel]:
    """n English lines of one to `joined` numbers, each smaller than `below`, and their translations into German.

    Args:
        held_out: whether the numbers are those that `is_held_out`, or those that are not; default: any.
    """
    where = f"(numbers in words, seed {seed})"
    return [
        Parallel(line(numbers, "en"), line(numbers, "de"), Where(where, place))
        for place, numbers in enumerate(rows(n, seed, below, joined, held_out), start=1)
    ]


def rows(
    n: int, seed: int, below: int, joined: int, held_out: bool | None = None
) -> Iterator[tuple[int, ...]]:
    """The numbers of n lines; numbers of each length in digits are about as frequent, lines of each length too."""
    draw = random.Random(f"number words {seed}")
    for _ in range(n):
        yield tuple(_drawn(draw, below, held_out) for _ in range(draw.randint(1, joined)))


def is_held_out(number: int) -> bool:
    """Whether a number is kept for tests: a tenth of those from 100 on, so that each word is met in training."""
    return number >= 100 and random.Random(f"held out {number}").random() < 0.1


def _drawn(draw: random.Random, below: int, held_out: bool | None) -> int:
    while True:
        digits = draw.randint(1, len(str(below - 1)))
        number = draw.randrange(0 if digits == 1 else 10 ** (digits - 1), min(10**digits, below))
        if held_out is None or is_held_out(number) == held_out:
            return number


def line(numbers: tuple[int, ...], language: str) -> str:
    """The numbers in words, with semicolons between."""
    from num2words import num2words

    return JOINED.join(num2words(number, lang=language) for number in numbers)


def pieces(number: int) -> tuple[list[_Piece], list[_Piece]]:
    """The English and the German number in pieces (text, name), from 0 to `LARGEST`."""
    if not 0 <= number <= LARGEST:
        raise ValueError(f"{number} is not between 0 and {LARGEST}")
    return list(_english(number, "")), list(_german(number, ""))


def alignment(numbers: tuple[int, ...]) -> list[Link]:
    """Which characters of the English line each part of the German line stands for, in the order of the German."""
    links: list[Link] = []
    source_at = target_at = 0
    for number in numbers:
        english, german = pieces(number)
        places: dict[str, tuple[int, int]] = {}
        for text, name in english:
            if name:
                places[name] = (source_at, source_at + len(text))
            source_at += len(text)
        for text, name in german:
            if name in places:
                links.append((places[name], (target_at, target_at + len(text))))
            target_at += len(text)
        source_at += len(JOINED)
        target_at += len(JOINED)
    return links


def _english(number: int, name: str) -> Iterator[_Piece]:
    if number == 0 and not name:
        yield _ENGLISH[0], "ones"
    for size, word in ((10**6, "million"), (1000, "thousand"), (100, "hundred")):
        if number >= size:
            count, number = divmod(number, size)
            yield from _english(count, f"{name}{word} ")
            yield " ", ""
            yield word, name + word
            if number:
                yield (", " if number >= 100 else " and "), ""
    if number >= 20:
        yield _TENS[number // 10 - 2], name + "tens"
        number %= 10
        if number:
            yield "-", name + "and"
    if number:
        yield _ENGLISH[number], name + "ones"


def _german(number: int, name: str) -> Iterator[_Piece]:
    if number == 0 and not name:
        yield _GERMAN[0], "ones"
    if number >= 10**6:
        count, number = divmod(number, 10**6)
        yield from [("eine", f"{name}million ones")] if count == 1 else _german(count, f"{name}million ")
        yield " ", ""
        yield "Million" if count == 1 else "Millionen", name + "million"
        yield " " if number else "", ""
    for size, word, german in ((1000, "thousand", "tausend"), (100, "hundred", "hundert")):
        if number >= size:
            count, number = divmod(number, size)
            yield from [("ein", f"{name}{word} ones")] if count == 1 else _german(count, f"{name}{word} ")
            yield german, name + word
    ones = number % 10 if number >= 20 else number
    if ones:
        yield "ein" if number > 20 and ones == 1 else _GERMAN[ones], name + "ones"
    if number >= 20:
        if ones:
            yield "und", name + "and"
        yield _ZEHNER[number // 10 - 2], name + "tens"
