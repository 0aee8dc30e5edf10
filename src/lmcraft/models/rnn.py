"""The recurrent language models: the same task as the decoder, one token after the other.

    x = embed(tokens);   for each layer:  x = x + recurrent(norm(x));   logits = head(norm(x))

1. `cell: rnn` is the Elman network, `cell: lstm` the long short-term memory (lmcraft.layers.recurrent).
2. Residuals and norms between the layers are today's habit; with `residual: false` it is the plain stack of the 1990s.

Legend: B rows, T positions, D width, V vocabulary.
Proved by tests/parity/test_recurrent.py and tests/contract/test_models.py.
"""

from __future__ import annotations

from typing import Any, Literal

import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from ..core.config import Strict
from ..layers.memory import State
from ..layers.norm import RMSNorm
from ..layers.recurrent import Recurrent
from .presets import Preset, fill


class Config(Strict):
    """A recurrent language model."""

    kind: Literal["rnn"] = "rnn"
    preset: Preset | None = Field(None, description="sizes by one word: nano, tiny, small, base")
    cell: Literal["rnn", "lstm"] = "lstm"
    vocab: int | None = Field(None, gt=0, description="vocabulary size; default: the tokenizer's")
    context: int = Field(
        256, gt=0, description="longest training sequence; the state has no limit of its own"
    )
    layers: int = Field(2, gt=0)
    width: int = Field(256, gt=0)
    residual: bool = True
    tied: bool = True
    dropout: float = Field(0.0, ge=0, lt=1)

    @model_validator(mode="before")
    @classmethod
    def _fill_preset(cls, values: Any) -> Any:
        return fill("rnn", values)


class RNN(nn.Module):
    """See the module's docstring."""

    generates = True
    reads_source = False

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab, config.width)
        nn.init.normal_(self.embedding.weight, std=0.02 if config.residual else config.width**-0.5)
        self.layers = nn.ModuleList(Recurrent(config.width, config.cell) for _ in range(config.layers))
        self.norms = nn.ModuleList(
            RMSNorm(config.width, 1e-5) if config.residual else nn.Identity()
            for _ in range(config.layers + 1)
        )
        self.output = nn.Linear(config.width, config.vocab, bias=False)
        nn.init.normal_(self.output.weight, std=config.width**-0.5)
        if config.tied:
            self.output.weight = self.embedding.weight

    @property
    def max_length(self) -> None:
        """A recurrent network has no longest sequence."""
        return None

    def forward(
        self, tokens_BT: Tensor, segments_BT: Tensor | None = None, memory: State | None = None
    ) -> Tensor:
        """Hidden vectors [B, T, D] of every position."""
        if memory is None:
            memory = self._zeros(tokens_BT.shape[0])
        if segments_BT is not None and bool((segments_BT == 1).all()):
            segments_BT = None
        x_BTD = self.embedding(tokens_BT)
        for number, (norm, layer) in enumerate(zip(self.norms[:-1], self.layers, strict=True)):
            y_BTD, memory.layers[number] = layer(norm(x_BTD), memory.layers[number], segments_BT)
            if self.config.dropout:
                y_BTD = F.dropout(y_BTD, self.config.dropout, self.training)
            x_BTD = x_BTD + y_BTD if self.config.residual else y_BTD
        return self.norms[-1](x_BTD)

    def head(self, hidden: Tensor) -> Tensor:
        """Logits [..., V]."""
        return self.output(hidden)

    def start(self, rows: int, length: int) -> State:
        """The zero state of `rows` sequences; `length` does not matter to a recurrent network."""
        return self._zeros(rows)

    def _zeros(self, rows: int) -> State:
        parts = 2 if self.config.cell == "lstm" else 1
        return State(self.config.layers, rows, self.config.width, parts, like=self.embedding.weight)


def build(config: Config) -> RNN:
    """A recurrent model with fresh weights."""
    return RNN(config)
