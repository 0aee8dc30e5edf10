"""The encoder-only Transformer: every position sees its whole text; BERT and kin as settings of one Config.

    x = embed(tokens) (+ position vectors) (+ the vector of token type 0) (, normed)
    for each block:   x = x + f(norm(x)) (pre)   or   x = norm(x + f(x)) (post)
    hidden = norm(x);   logits = head(hidden),  what stands in the place of a masked word

1. `placement: post, positions: learned, token_types: 2, embedding_norm: true, transform: true` is BERT (Devlin et al.,
   arXiv 1810.04805); a text that stands alone has token type 0 everywhere.
2. With `transform` the head is BERT's: dense, activation, norm, then the embedding matrix and a bias.
3. It reads a text as a whole and has no next token, so it does not generate.

Legend: B rows, T positions, D width, V vocabulary.
Proved by tests/parity/test_bert.py and tests/contract/test_models.py.
"""

from __future__ import annotations

from typing import Any, Literal, NoReturn

import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from ..core.config import Strict
from ..core.errors import UserError
from ..layers.attention import sight
from ..layers.block import Block, Shape
from ..layers.mlp import PLAIN
from ..layers.norm import norm
from ..layers.positions import sinusoids
from .model import init_linear
from .presets import Preset, fill, head_width, mlp_width

ROPE_BASE = 10000.0


class Config(Strict):
    """An encoder-only Transformer."""

    kind: Literal["encoder"] = "encoder"
    preset: Preset | None = Field(None, description="sizes by one word: nano, tiny, small, base")
    vocab: int | None = Field(None, gt=0, description="vocabulary size; default: the tokenizer's")
    context: int = Field(256, gt=0, description="longest text in tokens")
    layers: int = Field(4, gt=0)
    width: int = Field(256, gt=0)
    heads: int = Field(4, gt=0)
    mlp_width: int | None = Field(None, gt=0, description="default: 4·width, for gated ones 8/3·width")
    positions: Literal["rotary", "learned", "sinusoidal"] = "rotary"
    norm: Literal["layernorm", "rmsnorm"] = "layernorm"
    norm_eps: float = Field(1e-5, gt=0)
    placement: Literal["pre", "post"] = Field(
        "pre", description="norm before each branch, or after it (BERT)"
    )
    mlp: Literal["relu", "gelu", "gelu_exact", "silu", "swiglu", "geglu"] = "gelu_exact"
    bias: bool = True
    token_types: int = Field(0, ge=0, description="rows of BERT's token type table; 0: no such table")
    embedding_norm: bool = Field(False, description="norm after the embeddings are added up (BERT)")
    transform: bool = Field(True, description="dense, activation and norm before the head's matrix")
    tied: bool = True
    dropout: float = Field(0.0, ge=0, lt=1)

    @model_validator(mode="before")
    @classmethod
    def _fill_preset(cls, values: Any) -> Any:
        return fill("encoder", values)

    @model_validator(mode="after")
    def _complete(self) -> Config:
        each = head_width(self.width, self.heads)
        if self.positions == "rotary" and each % 2:
            raise ValueError(f"rotary positions need an even head width, not {each}")
        object.__setattr__(self, "mlp_width", self.mlp_width or mlp_width(self.width, self.mlp))
        return self


class Transform(nn.Module):
    """What BERT does to hidden vectors before it compares them with the embedding matrix."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.dense = nn.Linear(config.width, config.width)
        self.activation = PLAIN.get(config.mlp, F.gelu)
        self.norm = norm(config.norm, config.width, config.norm_eps)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.norm(self.activation(self.dense(hidden)))


class Encoder(nn.Module):
    """See the module's docstring."""

    generates = False
    reads_source = False

    def __init__(self, config: Config) -> None:
        super().__init__()
        assert config.mlp_width
        self.config = config
        self.embedding = nn.Embedding(config.vocab, config.width)
        self.position = nn.Embedding(config.context, config.width) if config.positions == "learned" else None
        self.token_type = nn.Embedding(config.token_types, config.width) if config.token_types else None
        self.embedding_norm = (
            norm(config.norm, config.width, config.norm_eps) if config.embedding_norm else None
        )
        shape = Shape(
            config.width, config.heads, config.width // config.heads, config.mlp_width, config.norm, config.norm_eps,
            config.placement, config.mlp, config.bias, config.dropout,
        )  # fmt: skip
        self.blocks = nn.ModuleList(Block(shape, cross=False) for _ in range(config.layers))
        last = config.placement == "pre"
        self.norm = norm(config.norm, config.width, config.norm_eps) if last else nn.Identity()
        self.transform = Transform(config) if config.transform else nn.Identity()
        self.output = nn.Linear(config.width, config.vocab)
        init_linear(self, residual={"out", "down"}, layers=config.layers)
        if config.tied:
            self.output.weight = self.embedding.weight
            nn.init.normal_(self.embedding.weight, std=0.02)

    @property
    def max_length(self) -> int:
        """Longest text in tokens."""
        return self.config.context

    def forward(self, tokens_BT: Tensor, segments_BT: Tensor | None = None, memory: None = None) -> Tensor:
        """Hidden vectors [B, T, D] of every position; there is no memory."""
        config = self.config
        assert memory is None, "an encoder has no memory"
        rotary = (config.width // config.heads, ROPE_BASE) if config.positions == "rotary" else None
        shared = sight(tokens_BT, segments_BT, None, None, rotary, causal=False)
        x_BTD = self.embedding(tokens_BT)
        if self.position is not None:
            x_BTD = x_BTD + self.position(shared.positions_BT)
        elif config.positions == "sinusoidal":
            x_BTD = x_BTD + sinusoids(shared.positions_BT, config.width).to(x_BTD.dtype)
        if self.token_type is not None:
            x_BTD = x_BTD + self.token_type.weight[0]
        if self.embedding_norm is not None:
            x_BTD = self.embedding_norm(x_BTD)
        if config.dropout:
            x_BTD = F.dropout(x_BTD, config.dropout, self.training)
        for block in self.blocks:
            x_BTD = block(x_BTD, shared)
        return self.norm(x_BTD)

    def head(self, hidden: Tensor) -> Tensor:
        """Logits [..., V] of what stands at each position."""
        return self.output(self.transform(hidden))

    def start(self, rows: int, length: int) -> NoReturn:
        """Raises UserError: an encoder continues nothing."""
        raise UserError(
            "an encoder does not generate text", why="it reads a text as a whole and has no next token",
            fix="fill masked words with `lmcraft read`, or train it to classify, tag or embed",
        )  # fmt: skip


def build(config: Config) -> Encoder:
    """An encoder with fresh weights."""
    return Encoder(config)
