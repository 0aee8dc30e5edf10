"""Sequence to sequence: write a target after reading a source. Translation, summarization, anything of that shape.

1. The model reads source + eos, and writes bos + target + eos; every id but the first is a target.
2. A pair of which one side is longer than a row is cut at the end (`overflow=truncate`, counted) or dropped.
3. `smoothing` is the label smoothing of Vaswani et al. (arXiv 1706.03762); held-out losses are without it.
4. Pairs are not packed: rows of similar length stand together instead, which suits recurrent networks as well.

Proved by tests/contract/test_stages.py and tests/unit/stages/test_translate.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field
from torch import Tensor, nn

from ..core.config import Strict
from ..core.errors import UserError
from ..data.batch import Batch
from ..data.records import Parallel
from ..data.tokens import Document
from ..generate.language_model import source_frame, start_id
from ..text.chat import ChatTemplate
from ..text.tokenizer import Tokenizer
from ..train.loss import summed_cross_entropy

MODEL = "encdec"
LR = 1e-3
CHAT = False
PACK = False
CHUNK = 1000


class Config(Strict):
    """Label smoothing, and what happens to long pairs."""

    kind: Literal["translate"] = "translate"
    smoothing: float = Field(0.1, ge=0, lt=1, description="label smoothing")
    overflow: Literal["truncate", "drop"] = "truncate"


@dataclass
class Translate:
    """See the module's docstring.

    `first` is the id that begins every target, from the model or the tokenizer; `before` are those that begin sources.
    """

    config: Config
    first: int | None = None
    before: tuple[int, ...] = ()

    @property
    def facts(self) -> dict[str, Any]:
        """The ids that begin targets and sources."""
        return {"first": self.first, "before": self.before}

    def ready(self, model: nn.Module, records: Sequence, tokenizer: Tokenizer) -> nn.Module:
        """The model, if it reads a source.

        Raises:
            UserError: it does not.
        """
        if not model.reads_source:
            kind = model.config.kind
            raise UserError(
                f"a model of kind {kind} cannot be trained to translate", where=f"model.kind={kind}",
                why="it reads no source", fix="choose model.kind=encdec or model.kind=seq2seq",
            )  # fmt: skip
        self.first = start_id(model, tokenizer)
        self.before = tuple(source_frame(model, tokenizer)[0])
        if getattr(model.config, "start_id", self.first) is None:  # from now on the model brings its own
            model.config = model.config.model_copy(update={"start_id": self.first})
        return model

    def documents(
        self, records: Sequence, tokenizer: Tokenizer, template: ChatTemplate, width: int, counts: Counter
    ) -> Iterator[Document]:
        """Targets with their sources."""
        first = tokenizer.bos if self.first is None else self.first
        after = [] if tokenizer.eos is None else [tokenizer.eos]
        for start in range(0, len(records), CHUNK):
            part = records[start : start + CHUNK]
            for record in part:
                _require_pair(record)
            sources = tokenizer.encode_texts([record.source for record in part])
            targets = tokenizer.encode_texts([record.target for record in part])
            for record, source, target in zip(part, sources, targets, strict=True):
                source, target = [*self.before, *source, *after], [first, *target, *after]
                if len(source) > width or len(target) - 1 > width:
                    if self.config.overflow == "drop":
                        counts["dropped, too long"] += 1
                        continue
                    counts["truncated"] += 1
                    source, target = source[:width], target[: width + 1]
                yield Document(target, [False] + [True] * (len(target) - 1), record.where, source=source)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Summed over all target ids; smoothed while training."""
        hidden_BTD = model(batch.tokens_BT, batch.segments_BT, source=batch.source)
        smoothing = self.config.smoothing if model.training else 0.0
        return summed_cross_entropy(model, hidden_BTD, batch.targets_BT, smoothing)


def _require_pair(record: object) -> None:
    if not isinstance(record, Parallel):
        raise UserError(
            f"translation needs pairs, not {type(record).__name__.lower()} records",
            where=str(getattr(record, "where", "")),
            fix="give rows with `source` and `target`, or say which columns they are: "
            "data.columns.source=en data.columns.target=de",
        )


def build(config: Config) -> Translate:
    """The stage."""
    return Translate(config)
