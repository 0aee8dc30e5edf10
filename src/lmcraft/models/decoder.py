"""The decoder-only Transformer: GPT-2, Llama, Mistral, Qwen and kin as settings of one Config.

    x = embed(tokens) (+ position vectors)
    for each block:   x = x + attention(norm(x));   x = x + mlp(norm(x))
    hidden = norm(x);   logits = head(hidden)

1. Pre-norm residual blocks (GPT-2); rotary positions, RMSNorm, SwiGLU and grouped heads make it a Llama.
2. Dropout acts on the embedding and on both residual branches, only in training mode.
3. A tied head shares the embedding's storage.

Legend: B rows, T positions, D width, V vocabulary.
Proved by tests/parity/test_decoder.py and tests/contract/test_models.py.
"""

from __future__ import annotations

from typing import Any, Literal

import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from ..core.config import Strict
from ..layers.attention import Attention, Sight, sight
from ..layers.memory import KeyValues
from ..layers.mlp import MLP
from ..layers.norm import norm
from ..layers.positions import sinusoids
from .model import init_linear
from .presets import Preset, fill


class Config(Strict):
    """A decoder-only Transformer."""

    kind: Literal["decoder"] = "decoder"
    preset: Preset | None = Field(None, description="sizes by one word: nano, tiny, small, base")
    vocab: int | None = Field(None, gt=0, description="vocabulary size; default: the tokenizer's")
    context: int = Field(256, gt=0, description="longest sequence in tokens")
    layers: int = Field(4, gt=0)
    width: int = Field(256, gt=0)
    heads: int = Field(4, gt=0)
    kv_heads: int | None = Field(None, gt=0, description="key/value heads; default: as many as heads")
    head_width: int | None = Field(None, gt=0, description="default: width / heads")
    mlp_width: int | None = Field(None, gt=0, description="default: 4·width, for swiglu 8/3·width")
    positions: Literal["rotary", "learned", "sinusoidal"] = "rotary"
    rope_base: float = Field(10000.0, gt=0)
    norm: Literal["rmsnorm", "layernorm"] = "rmsnorm"
    norm_eps: float = Field(1e-5, gt=0)
    mlp: Literal["swiglu", "gelu"] = "swiglu"
    window: int | None = Field(None, gt=0, description="sliding attention window in tokens")
    bias: Literal["none", "qkv", "all"] = "none"
    qk_norm: bool = False
    tied: bool = True
    dropout: float = Field(0.0, ge=0, lt=1)

    @model_validator(mode="before")
    @classmethod
    def _fill_preset(cls, values: Any) -> Any:
        return fill("decoder", values)

    @model_validator(mode="after")
    def _complete(self) -> Config:
        if self.head_width is None and self.width % self.heads:
            raise ValueError(f"width {self.width} is not divisible by heads {self.heads}")
        head_width = self.head_width or self.width // self.heads
        mlp_width = self.mlp_width or (
            4 * self.width if self.mlp == "gelu" else -(-8 * self.width // 3 // 32) * 32
        )
        for name, value in (
            ("kv_heads", self.kv_heads or self.heads), ("head_width", head_width), ("mlp_width", mlp_width)
        ):  # fmt: skip
            object.__setattr__(self, name, value)
        if self.kv_heads and self.heads % self.kv_heads:
            raise ValueError(f"heads {self.heads} is not divisible by kv_heads {self.kv_heads}")
        if self.positions == "rotary" and head_width % 2:
            raise ValueError(f"rotary positions need an even head_width, not {head_width}")
        return self


class Block(nn.Module):
    """Attention and feed-forward, each behind its norm and around a residual."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        assert config.kv_heads and config.head_width and config.mlp_width
        self.attn_norm = norm(config.norm, config.width, config.norm_eps)
        self.attn = Attention(
            config.width,
            config.heads,
            config.kv_heads,
            config.head_width,
            bias=config.bias != "none",
            out_bias=config.bias == "all",
            qk_norm_eps=config.norm_eps if config.qk_norm else None,
        )
        self.mlp_norm = norm(config.norm, config.width, config.norm_eps)
        self.mlp = MLP(config.width, config.mlp_width, config.mlp, bias=config.bias == "all")
        self.dropout = config.dropout

    def forward(self, x_BTD: Tensor, sight: Sight, memory: KeyValues | None, layer: int) -> Tensor:
        x_BTD = x_BTD + self._drop(self.attn(self.attn_norm(x_BTD), sight, memory, layer))
        return x_BTD + self._drop(self.mlp(self.mlp_norm(x_BTD)))

    def _drop(self, x_BTD: Tensor) -> Tensor:
        return F.dropout(x_BTD, self.dropout, self.training) if self.dropout else x_BTD


class Decoder(nn.Module):
    """See the module's docstring."""

    generates = True
    reads_source = False

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab, config.width)
        self.position = nn.Embedding(config.context, config.width) if config.positions == "learned" else None
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = norm(config.norm, config.width, config.norm_eps)
        self.output = nn.Linear(config.width, config.vocab, bias=False)
        init_linear(self, residual={"out", "down"}, layers=config.layers)
        if config.tied:
            self.output.weight = self.embedding.weight
            nn.init.normal_(self.embedding.weight, std=0.02)

    @property
    def max_length(self) -> int:
        """Longest sequence in tokens."""
        return self.config.context

    def forward(
        self, tokens_BT: Tensor, segments_BT: Tensor | None = None, memory: KeyValues | None = None
    ) -> Tensor:
        """Hidden vectors [B, T, D] of every position."""
        config = self.config
        assert config.head_width
        rotary = (config.head_width, config.rope_base) if config.positions == "rotary" else None
        shared = sight(tokens_BT, segments_BT, memory, config.window, rotary)
        x_BTD = self.embedding(tokens_BT)
        if self.position is not None:
            x_BTD = x_BTD + self.position(shared.positions_BT)
        elif config.positions == "sinusoidal":
            x_BTD = x_BTD + sinusoids(shared.positions_BT, config.width).to(x_BTD.dtype)
        if config.dropout:
            x_BTD = F.dropout(x_BTD, config.dropout, self.training)
        for layer, block in enumerate(self.blocks):
            x_BTD = block(x_BTD, shared, memory, layer)
        if memory is not None:
            memory.advance(_counts(tokens_BT, segments_BT))
        return self.norm(x_BTD)

    def head(self, hidden: Tensor) -> Tensor:
        """Logits [..., V]."""
        return self.output(hidden)

    def start(self, rows: int, length: int) -> KeyValues:
        """Room for `rows` sequences of at most `length` tokens."""
        config = self.config
        assert config.kv_heads and config.head_width
        return KeyValues(
            config.layers, rows, config.kv_heads, length, config.head_width, self.embedding.weight
        )


def _counts(tokens_BT: Tensor, segments_BT: Tensor | None) -> Tensor:
    """Real tokens of each row."""
    if segments_BT is None:
        return tokens_BT.new_full((tokens_BT.shape[0],), tokens_BT.shape[1])
    return (segments_BT != 0).sum(dim=1)


def build(config: Config) -> Decoder:
    """A decoder with fresh weights."""
    return Decoder(config)
