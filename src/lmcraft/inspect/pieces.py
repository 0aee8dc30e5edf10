"""Tokens as people read them: the text of each piece, and which pieces make a word.

1. A piece is shown by its bytes; where they are only a part of a character, in hexadecimal.
2. A piece begins a word if the decoded text has a blank before it, if it stands beside a special token, or where
   letters and marks meet; so punctuation is a word of its own and "tele|graph|ist" is one.
3. In labels blanks at the ends and characters that cannot be seen are written out.

Proved by tests/unit/inspect/test_pieces.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..report.tokens import control
from ..text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Piece:
    """One token: its id, its text, whether it is special, and whether a word begins with it."""

    id: int
    text: str
    special: bool
    begins: bool

    @property
    def label(self) -> str:
        """The text with nothing invisible in it."""
        return label(self.text)


def pieces(ids: Sequence[int], tokenizer: Tokenizer) -> list[Piece]:
    """The tokens of a text."""
    found: list[Piece] = []
    before = ""
    for place, number in enumerate(ids):
        text = text_of(number, tokenizer)
        after = tokenizer.decode(ids[: place + 1], skip_special=False)
        added = after[len(before) :] if after.startswith(before) else text
        special = number in tokenizer.special_ids
        begins = not found or special or found[-1].special or _begins(found[-1].text, added or text or "?")
        found.append(Piece(number, text, special, begins))
        before = after
    return found


def text_of(number: int, tokenizer: Tokenizer) -> str:
    """The text of one token; bytes that are no whole character as ⟨E2 82⟩; ids beyond the vocabulary by number."""
    if not 0 <= number < tokenizer.size:
        return f"⟨{number}⟩"
    data = tokenizer.token_bytes(number)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return f"⟨{data.hex(' ').upper()}⟩"


def label(text: str, most: int = 24) -> str:
    """`text` for an axis or a cell: one line, nothing invisible, cut in the middle if it is long."""
    shown = "".join(
        {" ": "\u00a0", "\n": "↵", "\t": "⇥"}.get(character) or control(character) or character
        for character in text.strip(" ") or "␣" * min(4, len(text)) or "∅"
    )
    return shown if len(shown) <= most else f"{shown[: most - 8]}…{shown[-7:]}"


def words(listed: Sequence[Piece]) -> list[list[int]]:
    """The places of the pieces of each word, in order."""
    found: list[list[int]] = []
    for place, piece in enumerate(listed):
        if piece.begins or not found:
            found.append([])
        found[-1].append(place)
    return found


def word_label(listed: Sequence[Piece], places: Sequence[int], tokenizer: Tokenizer) -> str:
    """The text of a word for an axis."""
    if len(places) == 1:
        return listed[places[0]].label
    return label(tokenizer.decode([listed[place].id for place in places], skip_special=False))


def _begins(last: str, added: str) -> bool:
    if added[0].isspace():
        return True
    if not last.strip():  # a blank of its own begins the word after it; a line end does not
        return "\n" in last
    ends, starts = last[-1], added[0]
    incomplete = last.startswith("⟨") or added[0] in "⟨\ufffd"
    return not incomplete and ends.isalnum() != starts.isalnum() and "'" not in (ends, starts)
