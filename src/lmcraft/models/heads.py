"""A model of any kind with another head: classes of texts, tags of words, sentence embeddings, or a score.

    classes:    scores = output(tanh(pooler(pool(hidden))))    one of `labels` for a text; the pooler is optional
    tags:       scores = output(hidden)                        one of `labels` for every position
    embedding:  vector = pool(hidden), of length 1 if `normalized`
    score:      score = gain · output(pool(hidden)) + bias     one number for a text: the reward of an answer

1. The body is an encoder, a decoder or a recurrent network without its own head.
2. For a text, `forward` gives every position the vector of its document, so a target may stand at any of them.
3. `pooling: cls` with a pooler is BertForSequenceClassification (Devlin et al., arXiv 1810.04805); `mean` is
   Sentence-BERT (Reimers and Gurevych, arXiv 1908.10084); a causal body has read the whole text at its `last` position.
4. A head for scores begins with weights of std 1/√(D+1) (Stiennon et al., arXiv 2009.01325). Gain and bias are not
   trained; they bring the scores of chosen samples to mean 0 and std 1 (lmcraft.generate.scoring).

Legend: B rows, T positions, D width, X classes.
Proved by tests/contract/test_models.py, tests/parity/test_bert.py and tests/unit/models/test_heads.py.
"""

from __future__ import annotations

from typing import Any, Literal, NoReturn

import torch
import torch.nn.functional as F
from pydantic import Field, field_validator
from torch import Tensor, nn

from ..core import find
from ..core.config import Strict
from ..core.errors import UserError
from ..layers.pooling import pool
from .model import build as build_body

INIT_STD = 0.02
OWN_HEAD = ("output", "transform")  # what a body brings to predict words, and a head here replaces


class Config(Strict):
    """A body, what is asked of it, and how a text becomes one vector."""

    kind: Literal["heads"] = "heads"
    task: Literal["classes", "tags", "embedding", "score"] = "classes"
    body: Any = Field(None, description="the Config of the model below")
    labels: tuple[str, ...] = Field((), description="of the classes or tags, in the order of the scores")
    pooling: Literal["mean", "cls", "last"] = "mean"
    pooler: bool = Field(False, description="dense and tanh between pooling and classes (BERT)")
    normalized: bool = Field(True, description="embeddings of length 1")
    dropout: float = Field(0.0, ge=0, lt=1, description="before the classes or tags")
    gain: float = Field(1.0, gt=0, description="of a score")
    bias: float = Field(0.0, description="of a score, added after the gain")
    longest: int | None = Field(None, gt=2, description="texts are cut there; default: where the body ends")

    @field_validator("body", mode="before")
    @classmethod
    def _of_its_kind(cls, value: Any) -> Any:
        return find.module("models", value["kind"]).Config(**value) if isinstance(value, dict) else value

    @property
    def vocab(self) -> int | None:
        """The body's vocabulary."""
        return getattr(self.body, "vocab", None)

    @property
    def context(self) -> int:
        """Longest text in tokens."""
        return min(self.longest or self.body.context, self.body.context)

    @property
    def tied(self) -> bool:
        """The head has a matrix of its own."""
        return False


class Heads(nn.Module):
    """See the module's docstring; `body` is a finished model whose own head is taken off."""

    generates = False
    reads_source = False

    def __init__(self, config: Config, body: nn.Module) -> None:
        super().__init__()
        if body.reads_source:
            raise UserError(
                f"a model of kind {config.body.kind} cannot be given this head", why="it reads a source and a target",
                fix="start from an encoder, a decoder or a recurrent network",
            )  # fmt: skip
        if config.pooling == "cls" and body.generates and config.task != "tags":
            raise UserError(
                "the first position of this model stands for nothing", where="pooling=cls",
                why="it has read only the first token", fix="use pooling=last or pooling=mean",
            )  # fmt: skip
        for name in OWN_HEAD:
            if hasattr(body, name):
                delattr(body, name)
        width = config.body.width
        self.config, self.body = config, body
        self.pooler = nn.Linear(width, width) if config.pooler else None
        scores = config.task == "score"
        self.output = None
        if config.task != "embedding":
            # Differences of scores are all that training sees: a bias would never move.
            self.output = nn.Linear(width, 1 if scores else len(config.labels), bias=not scores)
        for layer, std in (
            (self.pooler, INIT_STD),
            (self.output, (width + 1) ** -0.5 if scores else INIT_STD),
        ):
            if layer is not None:
                nn.init.normal_(layer.weight, std=std)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    @property
    def max_length(self) -> int | None:
        """Longest text in tokens."""
        limits = [limit for limit in (self.body.max_length, self.config.longest) if limit is not None]
        return min(limits, default=None)

    @property
    def embedding(self) -> nn.Embedding:
        """The body's token embeddings."""
        return self.body.embedding

    def forward(self, tokens_BT: Tensor, segments_BT: Tensor | None = None, memory: None = None) -> Tensor:
        """The vector of each position's document, or for tags of each position: [B, T, D]."""
        assert memory is None, "a model with this head has no memory"
        hidden_BTD = self.body(tokens_BT, segments_BT)
        if self.config.task == "tags":
            return hidden_BTD
        pooled_BTD = pool(hidden_BTD, segments_BT, self.config.pooling)
        if self.config.task == "embedding" and self.config.normalized:
            return F.normalize(pooled_BTD, dim=-1)
        return pooled_BTD

    def head(self, hidden: Tensor) -> Tensor:
        """Scores [..., X] of the labels, or one score [..., 1]; an embedding as it is."""
        if self.output is None:
            return hidden
        if self.pooler is not None:
            hidden = torch.tanh(self.pooler(hidden))
        found = self.output(F.dropout(hidden, self.config.dropout, self.training))
        return found * self.config.gain + self.config.bias if self.config.task == "score" else found

    def start(self, rows: int, length: int) -> NoReturn:
        """Raises UserError: there is nothing to continue."""
        raise UserError(
            "this model does not generate text", why=f"its head gives {self.config.task}",
            fix="use `lmcraft read`, or the model that it was trained from",
        )  # fmt: skip


def around(model: nn.Module, **settings: Any) -> Heads:
    """A model, or the body of one that has such a head already, with a fresh head of these settings (see Config)."""
    body = model.body if isinstance(model, Heads) else model
    head = Heads(Config(body=body.config, **settings), body)
    return head.to(next(body.parameters()).dtype).train(model.training)


def build(config: Config) -> Heads:
    """Body and head with fresh weights.

    Raises:
        UserError: there is no body; stages that need this model make it themselves.
    """
    if config.body is None:
        raise UserError(
            "model.kind=heads names no model", where="model.kind=heads", why="a head stands on a body",
            fix="name the body (model.kind=encoder, decoder or rnn) and train stage=classify, tag or embed",
        )  # fmt: skip
    return Heads(config, build_body(config.body))
