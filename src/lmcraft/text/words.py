"""Words and the tokens they are cut into: which token is a word's first, and which tokens belong to one word.

1. Words are joined by spaces and read as one text, so a model sees them as it sees any text.
2. A token belongs to the word that its last character lies in. Some vocabularies put the space before a word into it,
   and a token may be a piece of a character.
3. A word of which nothing is left (control characters, say) has no token.

Proved by tests/unit/text/test_words.py.
"""

from __future__ import annotations

import bisect
import re
from collections.abc import Sequence
from dataclasses import dataclass

from .tokenizer import Tokenizer

_WORD = re.compile(
    r"\w+(?:[.,]\d+)*|[^\w\s]"
)  # numbers keep their points; marks stand alone, as in CoNLL's files


@dataclass(frozen=True, slots=True)
class Words:
    """Ids of a sentence; `first[i]` is the index of word i's first id, None where it has none; `of` the reverse."""

    ids: list[int]
    first: list[int | None]
    of: list[int | None]


def encode_words(tokenizer: Tokenizer, sentences: Sequence[Sequence[str]]) -> list[Words]:
    """Ids of each sentence, given in words; nothing in them is special."""
    found = []
    texts = [" ".join(words) for words in sentences]
    for words, text, (ids, spans) in zip(sentences, texts, tokenizer.spans(texts), strict=True):
        starts, place = [], 0
        for word in words:
            starts.append(place)
            place += len(word) + 1
        first: list[int | None] = [None] * len(words)
        of: list[int | None] = []
        for index, (_, stop) in enumerate(spans):
            inside = stop > 0 and not text[stop - 1].isspace()
            word = bisect.bisect_right(starts, stop - 1) - 1 if inside else None
            of.append(word)
            if word is not None and first[word] is None:
                first[word] = index
        found.append(Words(ids, first, of))
    return found


def split_words(text: str) -> list[str]:
    """The words and marks of a plain text, for models that tag words."""
    return _WORD.findall(text)


def word_starts(tokenizer: Tokenizer) -> list[bool]:
    """For each id whether it begins a word when it stands after another token; special tokens do."""
    starts = [True] * tokenizer.size
    for number in range(tokenizer.size):
        token = tokenizer.token(number)
        if token is None or number in tokenizer.special_ids:
            continue
        if tokenizer.marks_continuations:
            starts[number] = not token.startswith("##")
        else:
            piece = tokenizer.token_bytes(number)
            starts[number] = piece[:1].isspace() or (piece[:1] < b"\x80" and not piece[:1].isalnum())
    return starts


def pieces(words: Words, room: int) -> list[tuple[int, int]]:
    """The sentence's tokens in spans (start, stop) of at most `room`, parted between words where that is possible."""
    begins = {index for index in words.first if index is not None}
    spans, start = [], 0
    while start < len(words.ids):
        stop = min(start + room, len(words.ids))
        if stop < len(words.ids):
            stop = next((index for index in range(stop, start, -1) if index in begins), stop)
        spans.append((start, stop))
        start = stop
    return spans
