"""Numbers in words are those of num2words, and the alignment is what one gets by taking the numbers apart."""

from __future__ import annotations

import pytest

from lmcraft.data import number_words

num2words = pytest.importorskip("num2words").num2words
NUMBERS = [*range(1300), 21_000, 30_021, 101_000, 345_067, 10**6, 10**6 + 1, 21_000_100, number_words.LARGEST]


@pytest.mark.parametrize("side", [0, 1])
def test_the_pieces_make_the_words(side: int) -> None:
    """If this failed, an alignment would be of other words than those that are translated."""
    language = ("en", "de")[side]
    for number in NUMBERS:
        made = "".join(text for text, _ in number_words.pieces(number)[side])
        assert made == num2words(number, lang=language), number
    with pytest.raises(ValueError, match="between 0 and"):
        number_words.pieces(10**9)


def test_the_alignment_of_a_line_reverses_ones_and_tens() -> None:
    """If this failed, the alignment error of a model would be measured against a wrong truth."""
    numbers = (21, 345_167)
    source, target = (number_words.line(numbers, language) for language in ("en", "de"))
    found = [(source[a:b], target[c:d]) for (a, b), (c, d) in number_words.alignment(numbers)]
    assert found == [
        ("one", "ein"), ("-", "und"), ("twenty", "zwanzig"),
        ("three", "drei"), ("hundred", "hundert"), ("five", "fünf"), ("-", "und"), ("forty", "vierzig"),
        ("thousand", "tausend"), ("one", "ein"), ("hundred", "hundert"), ("seven", "sieben"), ("-", "und"),
        ("sixty", "sechzig"),
    ]  # fmt: skip


def test_every_german_letter_stands_for_something() -> None:
    """If this failed, parts of a number would never be counted in an alignment error."""
    for number in NUMBERS:
        target = number_words.line((number,), "de")
        links = number_words.alignment((number,))
        covered = {place for _, (start, stop) in links for place in range(start, stop)}
        assert covered == {place for place, letter in enumerate(target) if letter != " "}, number
        assert [link[1] for link in links] == sorted(link[1] for link in links)


def test_held_out_numbers_are_never_in_training_lines() -> None:
    """If this failed, unseen numbers would have been seen."""
    train = list(number_words.rows(300, 1, 10**6, 4, held_out=False))
    test = list(number_words.rows(100, 2, 10**6, 4, held_out=True))
    assert not {n for row in train for n in row} & {n for row in test for n in row}
    assert {len(row) for row in train} == {1, 2, 3, 4} and min(n for row in test for n in row) >= 100
    assert list(number_words.rows(300, 1, 10**6, 4, held_out=False)) == train
    assert {len(str(n)) for row in train for n in row} == {1, 2, 3, 4, 5, 6}


def test_pairs_are_records_of_a_place() -> None:
    """If this failed, a mistake of a model could not be traced to its line."""
    pairs = number_words.pairs(3, seed=5, joined=2)
    assert [pair.where.line for pair in pairs] == [1, 2, 3] and "seed 5" in pairs[0].where.file
    assert all(pair.source.count(";") == pair.target.count(";") for pair in pairs)
