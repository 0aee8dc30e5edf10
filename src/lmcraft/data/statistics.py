"""Count what a data set holds: characters, words, turns, labels, and tokens when a tokenizer is given.

1. A word is what stands between white space. The trained share is of characters, as preview marks them; with a
   tokenizer also of tokens, with everything that the chat template adds.
2. Quantiles are values that occur: the middle of 1, 2, 3, 4 is 2.

Proved by tests/unit/data/test_statistics.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..core.log import Progress
from .preview import spans
from .records import Chat, Labeled, Rated, Record, Tagged, Vote

if TYPE_CHECKING:
    from ..text.chat import ChatTemplate
    from ..text.tokenizer import Tokenizer

_CHUNK = 500
_CLASSES = 30


def describe(records: Sequence[Record]) -> dict[str, Any]:
    """Sums and spreads over the records; there must be at least one."""
    characters, words, trained = [], [], 0
    for record in records:
        found = spans(record)
        characters.append(sum(len(span.text) for span in found))
        words.append(sum(len(span.text.split()) for span in found))
        trained += sum(len(span.text) for span in found if span.trained)
    total = sum(characters)
    facts: dict[str, Any] = {
        "characters": spread(characters),
        "words": spread(words),
        "trained_characters": {"total": trained, "share": round(trained / total, 4) if total else 0.0},
        "longest": str(records[characters.index(max(characters))].where),
    }
    chats = [record for record in records if isinstance(record, Chat)]
    if chats:
        facts["turns"] = spread([len(chat.messages) for chat in chats])
        facts["with_a_system_message"] = sum(chat.messages[0].role == "system" for chat in chats)
    classes = Counter(name for record in records for name in _classes(record))
    if classes:
        facts["classes"] = dict(classes.most_common(_CLASSES))
        facts["number_of_classes"] = len(classes)
    return facts


def _classes(record: Record) -> Sequence[str]:
    match record:
        case Labeled(label=label):
            return (label,)
        case Tagged(tags=tags):
            return tags
        case Rated(label=label):
            return ("good" if label else "bad",)
        case Vote(winner=winner):
            return (winner,)
    return ()


def tokens(
    records: Sequence[Record], tokenizer: Tokenizer, template: ChatTemplate, context: int | None = None
) -> dict[str, Any]:
    """Lengths in tokens, how many of them are trained, and how many records are longer than `context`."""
    lengths, trained = [], 0
    with Progress(len(records), "records", "counting tokens") as progress:
        for start in range(0, len(records), _CHUNK):
            for length, targets in _lengths(records[start : start + _CHUNK], tokenizer, template):
                lengths.append(length)
                trained += targets
            progress.update(len(lengths))
    total = sum(lengths)
    facts: dict[str, Any] = {
        "tokens": spread(lengths),
        "trained_tokens": {"total": trained, "share": round(trained / total, 4) if total else 0.0},
    }
    if context is not None:
        facts["longer_than_the_context"] = sum(length > context for length in lengths)
    return facts


def _lengths(part: Sequence[Record], tokenizer: Tokenizer, template: ChatTemplate) -> list[tuple[int, int]]:
    """(tokens, trained tokens) of each record."""
    if isinstance(part[0], Chat):
        return [
            (len(chat.ids), sum(chat.trained))
            for chat in template.encode_all([chat.messages for chat in part])
        ]
    marked = [(number, span) for number, record in enumerate(part) for span in spans(record)]
    sums = [[0, 0] for _ in part]
    for (number, span), ids in zip(
        marked, tokenizer.encode_batch([span.text for _, span in marked]), strict=True
    ):
        sums[number][0] += len(ids)
        sums[number][1] += len(ids) if span.trained else 0
    return [(length, targets) for length, targets in sums]


def spread(values: Sequence[int]) -> dict[str, float]:
    """Total, mean, smallest, largest and the 50 % and 95 % quantiles; there must be at least one value."""
    ordered = sorted(values)
    return {
        "total": sum(ordered),
        "mean": round(sum(ordered) / len(ordered), 2),
        "smallest": ordered[0],
        "median": _quantile(ordered, 0.5),
        "q95": _quantile(ordered, 0.95),
        "largest": ordered[-1],
    }


def _quantile(ordered: Sequence[int], share: float) -> int:
    """The smallest value that at least `share` of the values do not exceed."""
    rank = -(-len(ordered) * share // 1)
    return ordered[max(0, int(rank) - 1)]
