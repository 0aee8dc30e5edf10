"""The loss mask as markup: each token in a box of its own, those that are trained in colour, blanks made visible.

1. The first token of a row is only read, whatever its mark: nothing stands before it to predict it from.
2. Text comes from data and is hostile until proved otherwise: it is escaped here, control characters and those that
   turn the direction of writing are shown by name, never sent to the browser.

Proved by tests/unit/report/test_tokens.py.
"""

from __future__ import annotations

import itertools
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup, escape

_ROWS = 4
_TOKENS = 600


@dataclass(frozen=True)
class Row:
    """One row of training data: where it came from, its markup, and how many of its tokens are trained."""

    where: str
    markup: Markup
    tokens: int
    trained: int
    cut_characters: bool


def rows(preview: Any) -> list[Row]:
    """The rows of the `preview` in data.json; whatever does not have its shape is passed over."""
    found = []
    for entry in preview[:_ROWS] if isinstance(preview, list) else []:
        listed = entry.get("tokens") if isinstance(entry, dict) else None
        pairs = listed[:_TOKENS] if isinstance(listed, list) else []
        if pairs and all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
            found.append(_row(str(entry.get("where", "")), pairs))
    return found


def _row(where: str, pairs: list[list[Any]]) -> Row:
    marks = [(str(text), bool(trained) and place > 0) for place, (text, trained) in enumerate(pairs)]
    runs = []
    for trained, run in itertools.groupby(marks, key=lambda mark: mark[1]):
        element = Markup("<mark>{}</mark>" if trained else "<span>{}</span>")
        runs.append(element.format(Markup("").join(_token(text) for text, _ in run)))
    targets = sum(trained for _, trained in marks)
    cut_characters = any("\ufffd" in text for text, _ in marks)
    return Row(where, Markup("").join(runs), len(marks), targets, cut_characters)


def _token(text: str) -> Markup:
    kind = "t special" if text.startswith("<|") and text.endswith("|>") else "t"
    box = Markup('<span class="{}">{}</span>').format(kind, visible(text))
    return box + Markup("<br>") if "\n" in text else box


def visible(text: str) -> Markup:
    """A token's text as markup: escaped, with blanks and control characters made visible."""
    return Markup("").join(_characters(text or "∅"))


def _characters(text: str) -> Iterator[Markup]:
    for character in text:
        if character == " ":
            yield Markup('<i class="space"> </i>')
        elif character == "\n":
            yield Markup("<i>↵</i>")
        elif character == "\t":
            yield Markup("<i>⇥</i>")
        elif named := control(character):
            yield Markup("<i>{}</i>").format(named)
        else:
            yield escape(character)


def control(character: str) -> str | None:
    """What to show instead of a character that cannot be seen or changes how others are; None for all others."""
    code = ord(character)
    if character in "\u200c\u200d":  # joiners shape the scripts and emoji that they stand in
        return None
    if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp"):
        return f"U+{code:04X}"
    return None


def plain(text: Any) -> str:
    """A text from data for a page: line breaks and tabs stay, other control characters are shown by name."""
    kept = (c if c in "\n\t" else control(c) or c for c in ("" if text is None else str(text)))
    return "".join(kept)
