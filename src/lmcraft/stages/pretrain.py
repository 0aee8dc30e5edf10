"""Pre-training: predict every next token of plain text.

1. A document is bos + text + eos, so the model learns where texts begin and end; every id but the first is a target.
2. Texts longer than a row go on in the next one; nothing is thrown away.
3. The names of special tokens in a text are ordinary words.
4. Conversations are read as plain transcripts, a message a line, without a word about who speaks.

Proved by tests/contract/test_stages.py and tests/unit/stages/test_pretrain.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from ..core.config import Strict
from ..core.errors import UserError
from ..data.batch import Batch
from ..data.records import Chat, Text
from ..data.tokens import Document
from ..text.chat import ChatTemplate
from ..text.tokenizer import Tokenizer
from .stage import NextToken, next_token_loss

MODEL = "decoder"
LR = 2e-3
CHAT = False
PACK = True
CHUNK = 1000


class Config(Strict):
    """Pre-training has no options of its own."""

    kind: Literal["pretrain"] = "pretrain"


@dataclass(frozen=True)
class Pretrain(NextToken):
    """See the module's docstring."""

    config: Config

    def documents(
        self, records: Sequence, tokenizer: Tokenizer, template: ChatTemplate, width: int, counts: Counter
    ) -> Iterator[Document]:
        """bos + text + eos of each record."""
        before = tokenizer.beginning
        after = [] if tokenizer.eos is None else [tokenizer.eos]
        for start in range(0, len(records), CHUNK):
            part = records[start : start + CHUNK]
            for record, ids in zip(part, tokenizer.encode_texts([text_of(r) for r in part]), strict=True):
                counts["split over rows"] += len(before) + len(ids) + len(after) - 1 > width
                yield Document(before + ids + after, None, record.where)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Summed over all next tokens."""
        return next_token_loss(model, batch)


def text_of(record: Text | Chat) -> str:
    """A record as plain text."""
    if isinstance(record, Text):
        return record.text
    if isinstance(record, Chat):
        return "\n".join(message.content for message in record.messages)
    raise UserError(
        f"pre-training needs texts or conversations, not {type(record).__name__.lower()} records",
        where=str(record.where),
        fix="give .txt files, or rows with a `text` or `messages` field",
    )


def build(config: Config) -> Pretrain:
    """The stage."""
    return Pretrain(config)
