"""Show what of a record would be trained: its text in spans, each marked as trained or only read.

1. Without a tokenizer the marks follow from the record: the assistant's words of a conversation, all of a text, the
   answers of a preference, the target of a pair of sentences, the label or tags.
2. With a tokenizer and a chat template, a conversation is shown as the model reads it: the template's own text and
   special tokens included, marked token by token.

Proved by tests/unit/data/test_preview.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from .records import Chat, Rated, Record, Text, parts

if TYPE_CHECKING:
    from ..text.chat import ChatTemplate
    from ..text.tokenizer import Tokenizer

_TRAINED = {"chosen", "rejected", "label", "tags", "target"}


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of a record: what it is (a role or field, "" inside rendered text), its text, whether it is trained."""

    what: str
    text: str
    trained: bool


def spans(record: Record) -> list[Span]:
    """The record's parts, each marked from its role."""
    answers = len(record.prompt) if isinstance(record, Rated) else 0
    found = []
    for place, (what, text) in enumerate(parts(record)):
        if isinstance(record, Text):
            trained = True
        elif isinstance(record, Chat):
            trained = what == "assistant"
        elif isinstance(record, Rated):
            trained = place >= answers and what == "assistant"
        else:
            trained = what in _TRAINED
        found.append(Span(what, text, trained))
    return found


def rendered(record: Chat, tokenizer: Tokenizer, template: ChatTemplate) -> list[Span]:
    """The conversation as the template writes it, in runs of tokens that are trained or not."""
    encoded = template.encode(record.messages)
    marked = zip(encoded.ids, encoded.trained, strict=True)
    return [
        Span("", _text([number for number, _ in run], tokenizer), trained)
        for trained, run in groupby(marked, key=lambda mark: mark[1])
    ]


def _text(ids: Sequence[int], tokenizer: Tokenizer) -> str:
    """Bytes of all tokens together, since a character may be spread over several."""
    return b"".join(tokenizer.token_bytes(number) for number in ids).decode("utf-8", "backslashreplace")
