"""Supervised fine-tuning on conversations, with the loss on the assistant's words only.

1. What is trained: each assistant turn and the token that ends it, never a prompt token. `train_on=all` trains
   everything but the first token.
2. A conversation longer than a row is split where a user turn begins (`overflow=split`); a single exchange that is
   still too long is cut at the end, and dropped when nothing to train is left. All of it is counted.
3. A conversation with nothing to train is an error that names it.

Proved by tests/contract/test_stages.py and tests/unit/stages/test_sft.py.
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
from ..data.records import Chat, Message
from ..data.tokens import Document
from ..text.chat import ChatTemplate, Encoded
from ..text.tokenizer import Tokenizer
from .stage import NextToken, next_token_loss

MODEL = "decoder"
LR = 5e-4
CHAT = True
PACK = True
CHUNK = 500


class Config(Strict):
    """Which words are trained, and what happens to long conversations."""

    kind: Literal["sft"] = "sft"
    train_on: Literal["answers", "all"] = "answers"
    overflow: Literal["split", "truncate", "drop"] = "split"


@dataclass(frozen=True)
class SFT(NextToken):
    """See the module's docstring."""

    config: Config

    def documents(
        self, records: Sequence, tokenizer: Tokenizer, template: ChatTemplate, width: int, counts: Counter
    ) -> Iterator[Document]:
        """Rendered conversations with their trained parts."""
        for start in range(0, len(records), CHUNK):
            part = records[start : start + CHUNK]
            for record in part:
                _require_conversation(record)
            fitting: list[tuple[Chat, Encoded]] = []
            windows: list[tuple[Chat, list[Message]]] = []
            for record, encoded in zip(part, template.encode_all([r.messages for r in part]), strict=True):
                if not any(encoded.trained):
                    raise UserError(
                        "this conversation has nothing to train", where=str(record.where),
                        why="no assistant turn in it has any words", fix="mend or remove the row",
                    )  # fmt: skip
                if len(encoded.ids) - 1 <= width or self.config.overflow == "truncate":
                    fitting.append((record, encoded))
                elif self.config.overflow == "drop":
                    counts["dropped, too long"] += 1
                else:
                    cut = _windows(record.messages, encoded, width)
                    counts["conversations split at a user turn"] += len(cut) > 1
                    windows += [(record, window) for window in cut]
            split = template.encode_all([window for _, window in windows])
            fitting += [(record, encoded) for (record, _), encoded in zip(windows, split, strict=True)]
            for record, encoded in fitting:
                yield from self._cut(record, encoded, width, counts)

    def _cut(self, record: Chat, encoded: Encoded, width: int, counts: Counter) -> Iterator[Document]:
        """What of a conversation fits a row, if something in it is trained."""
        ids, trained = encoded.ids[: width + 1], encoded.trained[: width + 1]
        counts["truncated"] += len(ids) < len(encoded.ids)
        if any(trained[1:]):
            yield Document(ids, None if self.config.train_on == "all" else trained, record.where)
        elif any(encoded.trained):
            counts["dropped, no answer left after truncation"] += 1
        else:
            counts["left out, the last words of a user without an answer"] += 1

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Summed over the trained tokens."""
        return next_token_loss(model, batch)


def _require_conversation(record: object) -> None:
    if not isinstance(record, Chat):
        raise UserError(
            f"fine-tuning needs conversations, not {type(record).__name__.lower()} records",
            where=str(getattr(record, "where", "")),
            fix="give rows with `messages`, `conversations`, `instruction`/`output` or `prompt`/`completion`",
        )


def _windows(messages: Sequence[Message], encoded: Encoded, width: int) -> list[list[Message]]:
    """The conversation in parts that begin with a user turn and fit `width`, each with the system message if any."""
    system = [m for m in messages[:1] if m.role == "system"]
    starts = [number for number, message in enumerate(messages) if message.role == "user"]
    edges = [*encoded.exchanges, len(encoded.ids)]
    before = encoded.exchanges[0] if encoded.exchanges else 0
    windows: list[list[Message]] = []
    size = 0
    for number, start in enumerate(starts):
        stop = starts[number + 1] if number + 1 < len(starts) else len(messages)
        tokens = edges[number + 1] - edges[number]
        if not windows or before + size + tokens - 1 > width:
            windows.append([*system])
            size = 0
        windows[-1].extend(messages[start:stop])
        size += tokens
    return windows


def build(config: Config) -> SFT:
    """The stage."""
    return SFT(config)
