"""Classification: one class for each text, on top of an encoder, a decoder or a recurrent network.

    scores = head(pool(hidden));   loss = −log p(class)

1. The classes are those of the training records, in order (numbers by value). A held-out record of another class is
   left out and counted; the evaluation counts it as wrong.
2. A text is bos + text + eos, cut at the end to a row (`overflow=truncate`, counted) or dropped.
3. `pooling: auto` keeps what a base was trained with; else it is the mean for models that see both sides, and the last
   position for those that read forward. `cls` comes with BERT's dense layer and tanh.
4. A base that has a head for the same classes goes on with it; any other gets a fresh one.

Proved by tests/contract/test_stages.py and tests/unit/stages/test_classify.py.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field
from torch import Tensor, nn

from ..core.config import Strict
from ..core.errors import UserError
from ..data.batch import IGNORE, Batch
from ..data.records import Labeled
from ..data.tokens import Document
from ..generate.reading import framed
from ..models.heads import around
from ..text.chat import ChatTemplate
from ..text.tokenizer import Tokenizer
from ..train.loss import summed_cross_entropy
from .stage import same_labels

MODEL = "encoder"
LR = 1e-4
CHAT = False
PACK = True
CHUNK = 1000
_NUMBER = re.compile(r"[-+]?\d+(\.\d+)?")


class Config(Strict):
    """How a text becomes one vector, and what happens to long ones."""

    kind: Literal["classify"] = "classify"
    pooling: Literal["auto", "mean", "cls", "last"] = "auto"
    dropout: float = Field(0.1, ge=0, lt=1, description="before the classes")
    overflow: Literal["truncate", "drop"] = "truncate"


@dataclass
class Classify:
    """See the module's docstring; `ready` learns the classes."""

    config: Config
    labels: tuple[str, ...] = ()

    @property
    def facts(self) -> dict[str, Any]:
        """The classes."""
        return {"labels": self.labels}

    def ready(self, model: nn.Module, records: Sequence, tokenizer: Tokenizer) -> nn.Module:
        """The model with a head for the classes of the records.

        Raises:
            UserError: records without classes, one class only, or a model that cannot have such a head.
        """
        for record in records:
            if not isinstance(record, Labeled):
                raise UserError(
                    f"classification needs texts with a class, not {type(record).__name__.lower()} records",
                    where=str(getattr(record, "where", "")),
                    fix="give rows with `text` and `label`, or say which columns they are: data.columns.label=stars",
                )
        found = sorted({record.label for record in records}, key=_in_order)
        if same_labels(model, "classes", found):
            self.labels = model.config.labels
            return model
        if len(found) < 2:
            raise UserError(f"there is only one class: {', '.join(found)}", why="there is nothing to tell apart",
                            fix="give records of at least two classes")  # fmt: skip
        self.labels = tuple(found)
        pooling = self._pooling(model)
        return around(model, task="classes", labels=self.labels, pooling=pooling, dropout=self.config.dropout)

    def _pooling(self, model: nn.Module) -> str:
        if self.config.pooling != "auto":
            return self.config.pooling
        if hasattr(model.config, "pooling"):
            return model.config.pooling
        return "last" if model.generates else "mean"

    def documents(
        self, records: Sequence, tokenizer: Tokenizer, template: ChatTemplate, width: int, counts: Counter
    ) -> Iterator[Document]:
        """Texts with their class at the first position."""
        room = width - len(framed(tokenizer, []))
        number = {label: place for place, label in enumerate(self.labels)}
        for start in range(0, len(records), CHUNK):
            part = records[start : start + CHUNK]
            for record, ids in zip(part, tokenizer.encode_texts([r.text for r in part]), strict=True):
                if record.label not in number:
                    counts["left out, a class that was not trained"] += 1
                    continue
                if len(ids) > room:
                    if self.config.overflow == "drop":
                        counts["dropped, too long"] += 1
                        continue
                    counts["truncated"] += 1
                row = framed(tokenizer, ids[:room])
                labels = [number[record.label]] + [IGNORE] * (len(row) - 1)
                yield Document(row, None, record.where, labels)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Summed over the texts."""
        return summed_cross_entropy(model, model(batch.tokens_BT, batch.segments_BT), batch.targets_BT)


def _in_order(label: str) -> tuple[bool, float, str]:
    """Numbers by value, before words by letter."""
    number = _NUMBER.fullmatch(label) is not None
    return not number, float(label) if number else 0.0, label


def build(config: Config) -> Classify:
    """The stage."""
    return Classify(config)
