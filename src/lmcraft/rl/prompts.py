"""Prompts for a policy from records of any kind that begins with something to answer.

1. Prompts and preferences bring their own; of a conversation it is everything before its first answer; of a text its
   first `begin` tokens, for models that know no conversation.
2. A prompt that leaves no room for an answer is left out and counted.

Proved by tests/unit/rl/test_prompts.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from torch import nn

from ..core.errors import UserError
from ..data.batch import IGNORE
from ..data.records import Chat, Message, Pair, Parallel, Prompt, Rated, Text
from ..data.tokens import Document
from ..generate.language_model import asked_ids, source_ids, start_id
from ..text.chat import ChatTemplate
from ..text.tokenizer import Tokenizer


def messages(record: object) -> tuple[Message, ...] | str:
    """What is asked: messages, or a text.

    Raises:
        UserError: the record asks nothing.
    """
    match record:
        case Prompt(prompt=asked) | Pair(prompt=asked) | Rated(prompt=asked):
            return asked
        case Chat(messages=said):
            first = next(place for place, message in enumerate(said) if message.role == "assistant")
            return said[:first]
        case Text(text=text) | Parallel(source=text):
            return text
    raise UserError(
        f"{type(record).__name__.lower()} records ask nothing", where=str(getattr(record, "where", "")),
        fix="give rows with `prompt`, conversations, or texts that are to be continued",
    )  # fmt: skip


def question(record: object) -> str:
    """The user's last words, or the text."""
    asked = messages(record)
    return asked if isinstance(asked, str) else (asked[-1].content if asked else "")


def documents(
    model: nn.Module, records: Sequence, tokenizer: Tokenizer, template: ChatTemplate | None, room: int, begin: int,
    counts: Counter,
) -> Iterator[Document]:  # fmt: skip
    """The ids of each prompt; for a model that reads a source, the prompt is the source.

    Args:
        template: None for a model that knows no conversation.
        room: how many tokens a prompt may have.
        begin: tokens that a text is begun with.
    """
    for record in records:
        ids, source = _ids(model, record, tokenizer, template, begin), None
        if model.reads_source:
            source, ids = ids, [start_id(model, tokenizer)]
        if len(source or ids) > room:
            counts["dropped, no room for an answer"] += 1
            continue
        yield Document(ids, None, record.where, [0] + [IGNORE] * (len(ids) - 1), source)


def _ids(
    model: nn.Module, record: object, tokenizer: Tokenizer, template: ChatTemplate | None, begin: int
) -> list[int]:
    asked = messages(record)
    if not isinstance(asked, str):
        return asked_ids(model, tokenizer, template, asked)
    if model.reads_source:
        return source_ids(model, tokenizer, asked)
    ids = tokenizer.encode_plain(asked)
    return [*tokenizer.beginning, *(ids[:begin] if isinstance(record, Text) else ids)]
