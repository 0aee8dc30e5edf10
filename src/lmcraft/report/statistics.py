"""What became of the data: every count of data.json with its meaning, and two bars that add up.

1. The first bar is of records: trained on, held out, duplicates. The second is of the places in the rows: trained
   tokens, tokens that are only read, padding.
2. A count that this file does not know is shown under its own name, so that a new one is never hidden.

Proved by tests/unit/report/test_statistics.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from . import words
from .facts import Facts, mapping

# Name in data.json → what it is called, and what it means.
MEANINGS = {
    "records": ("Records read", ""),
    "duplicates removed": ("Duplicates left out", "same text as an earlier record"),
    "trained on": ("Records trained on", ""),
    "held out": ("Records held out", "never trained on; the held-out loss is of them"),
    "truncated": ("Truncated", "the end did not fit into a row and is not trained"),
    "dropped, too long": ("Dropped, too long", "asked for with overflow=drop"),
    "dropped, no answer left after truncation": ("Dropped, no answer left", "truncation left nothing to train"),
    "conversations split at a user turn": ("Conversations split", "longer than a row; divided at a user turn"),
    "split over rows": ("Texts split over rows", "longer than a row; they go on in the next one"),
    "rows: documents": ("Documents", "tokenized records and parts of records"),
    "rows: rows": ("Rows", "what one example of a batch holds"),
    "rows: tokens": ("Tokens in all rows", "of one pass over the data"),
    "rows: targets": ("Trained tokens among them", "the loss counts these"),
    "rows: padding": ("Padding", "empty places at the ends of rows"),
    "rows: cut_documents": ("Documents cut", "longer than a row, so in more than one"),
    "rows: rows_without_target": ("Rows left out", "nothing in them would be trained"),
}  # fmt: skip
NOT_COUNTS = {"files", "shape", "shard", "preview"}


@dataclass(frozen=True)
class Segment:
    """A part of a bar: `width` in percent, `tone` a class of the style sheet."""

    label: str
    count: str
    share: str
    width: float
    tone: str


@dataclass(frozen=True)
class Line:
    """One count."""

    label: str
    value: str
    meaning: str


@dataclass(frozen=True)
class Source:
    """One data file."""

    name: str
    shape: str
    records: str
    problems: str


@dataclass(frozen=True)
class Statistics:
    """The section about data."""

    records: list[Segment]
    places: list[Segment]
    lines: list[Line]
    sources: list[Source]


def statistics(facts: Facts) -> Statistics | None:
    """What data.json says, or None if there is none."""
    data = facts.data
    if not data:
        return None
    tokens, targets = words.number(data.get("rows: tokens")), words.number(data.get("rows: targets"))
    only_read = tokens - targets if tokens is not None and targets is not None else None
    records = bar(
        ("trained on", data.get("trained on"), "trained"),
        ("held out", data.get("held out"), "held"),
        ("duplicates left out", data.get("duplicates removed"), "lost"),
    )
    places = bar(
        ("trained tokens", targets, "trained"),
        ("only read", only_read, "context"),
        ("padding", data.get("rows: padding"), "lost"),
    )
    return Statistics(records, places, _lines(facts), _sources(data))


def bar(*parts: tuple[str, Any, str]) -> list[Segment]:
    """Label, count and tone of each part, as shares of their sum; nothing when nothing was counted."""
    numbers = [(label, words.number(count), tone) for label, count, tone in parts]
    known = [(label, max(0, number), tone) for label, number, tone in numbers if number is not None]
    total = sum(count for _, count, _ in known)
    return [
        Segment(label, words.count(count), words.share(count, total), round(100 * count / total, 3), tone)
        for label, count, tone in known
        if total
    ]


def _lines(facts: Facts) -> list[Line]:
    data = facts.data
    names = [*(name for name in MEANINGS if name in data), *(name for name in data if name not in MEANINGS)]
    lines = []
    for name in names:
        if name in NOT_COUNTS:
            continue
        label, meaning = MEANINGS.get(name, (name[:1].upper() + name[1:], ""))
        value = data[name]
        lines.append(Line(label, str(value) if words.number(value) is None else words.count(value), meaning))
    if "duplicates removed" not in data:
        lines.insert(1, Line("Duplicates", "not looked for", "data.deduplicate=none"))
    width = words.number(facts.setting("data", "context"))
    if width is not None:
        lines.append(Line("Width of a row", words.plural(width, "token"), "data.context"))
    return lines


def _sources(data: dict[str, Any]) -> list[Source]:
    found = []
    for name, value in mapping(data.get("files")).items():
        entry = mapping(value)
        counts = [words.count(entry.get(key)) for key in ("records", "problems")]
        found.append(Source(str(name), str(entry.get("shape", words.UNKNOWN)), *counts))
    return found
