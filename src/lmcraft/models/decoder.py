"""The decoder-only Transformer: GPT-2, Llama, Mistral, Qwen, Gemma and kin as settings of one Config.

    x = embed(tokens) (+ position vectors)
    for each block:   x = x + attention(norm(x));   x = x + mlp(norm(x))
    hidden = norm(x);   logits = head(hidden)

1. Pre-norm residual blocks (GPT-2); rotary positions, RMSNorm, SwiGLU and grouped heads make it a Llama.
2. Dropout acts on the embedding and on both residual branches, only in training mode.
3. A tied head shares the embedding's storage.
4. `norm: sandwich` is Gemma's stream: RMSNorm with weight 1 + w before and after each branch, embeddings · sqrt(D).
5. With dynamic rotary scaling the frequencies follow the text's length, so beyond the trained length what is remembered
   becomes wrong with every token. Then the text is read again from its beginning: slow, and equal to no memory at all.

Legend: B rows, T positions, M remembered positions, D width, V vocabulary.
Proved by tests/parity/test_decoder.py and tests/contract/test_models.py.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from ..core.config import Strict
from ..layers.attention import Attention, Sight, sight
from ..layers.memory import KeyValues, Rereading
from ..layers.mlp import MLP
from ..layers.norm import norm
from ..layers.positions import lengths, sinusoids
from ..layers.rope import Rope
from .model import init_linear
from .presets import Preset, fill, head_width, mlp_width


class Attending(Strict):
    """What is particular to single layers, or to how scores are made."""

    full_layers: tuple[int, ...] = Field((), description="layers (from 0) that the window does not hold for")
    no_rope_layers: tuple[int, ...] = Field(
        (), description="layers (from 0) without rotary positions (SmolLM3)"
    )
    local_rope_base: float | None = Field(
        None,
        gt=1,
        description="rotary base, not stretched, in layers with a window; default: as elsewhere (Gemma 3)",
    )
    score_width: float | None = Field(
        None, gt=0, description="scores are divided by the root of this; default: head_width"
    )


class Config(Strict):
    """A decoder-only Transformer.

    Two fields more than the twenty that we aim at: `rope` and `attention` are groups that most models leave out, and
    older runs go on with the keys that they know.
    """

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
    rope: Rope | None = Field(None, description="how rotary positions are stretched; default: not at all")
    norm: Literal["rmsnorm", "layernorm", "sandwich"] = "rmsnorm"
    norm_eps: float = Field(1e-5, gt=0)
    mlp: Literal["swiglu", "geglu", "gelu"] = "swiglu"
    window: int | None = Field(None, gt=0, description="sliding attention window in tokens")
    attention: Attending | None = Field(None, description="what is particular to single layers")
    bias: Literal["none", "qkv", "attention", "mlp", "all"] = "none"
    qk_norm: bool = False
    tied: bool = True
    dropout: float = Field(0.0, ge=0, lt=1)

    @model_validator(mode="before")
    @classmethod
    def _fill_preset(cls, values: Any) -> Any:
        return fill("decoder", values)

    @model_validator(mode="after")
    def _complete(self) -> Config:
        each = head_width(self.width, self.heads, self.head_width)
        for name, value in (
            ("kv_heads", self.kv_heads or self.heads), ("head_width", each),
            ("mlp_width", self.mlp_width or mlp_width(self.width, self.mlp)),
        ):  # fmt: skip
            object.__setattr__(self, name, value)
        if self.kv_heads and self.heads % self.kv_heads:
            raise ValueError(f"heads {self.heads} is not divisible by kv_heads {self.kv_heads}")
        if self.positions == "rotary" and each % 2:
            raise ValueError(f"rotary positions need an even head_width, not {each}")
        self._complete_rope(each)
        single = self.attention or Attending()
        for i in (*single.full_layers, *single.no_rope_layers):
            if not 0 <= i < self.layers:
                raise ValueError(f"there is no layer {i} among {self.layers}")
        if self.window is None and (single.full_layers or single.local_rope_base is not None):
            raise ValueError("full_layers and local_rope_base need a window")
        return self

    def _complete_rope(self, head_width: int) -> None:
        if self.rope is None:
            return
        if self.positions != "rotary":
            raise ValueError(f"rope is for rotary positions, not for {self.positions}")
        if self.rope.kind == "dynamic" and head_width < 4:
            raise ValueError("dynamic rotary scaling needs a head_width of 4 or more")
        if self.rope.kind == "yarn" and self.rope_base <= 1:
            raise ValueError("yarn rotary scaling needs a rope_base above 1")
        if self.rope.original_context is None:
            trained = max(1, int(self.context / self.rope.factor))
            object.__setattr__(self, "rope", self.rope.model_copy(update={"original_context": trained}))


class Block(nn.Module):
    """Attention and feed-forward, each behind its norm (sandwich: between two) and around a residual."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        assert config.kv_heads and config.head_width and config.mlp_width
        score_width = config.attention and config.attention.score_width
        self.attn_norm = norm(config.norm, config.width, config.norm_eps)
        self.attn = Attention(
            config.width,
            config.heads,
            config.kv_heads,
            config.head_width,
            bias=config.bias in ("qkv", "attention", "all"),
            out_bias=config.bias in ("attention", "all"),
            qk_norm_eps=config.norm_eps if config.qk_norm else None,
            scale=score_width**-0.5 if score_width else None,
        )
        sandwich = config.norm == "sandwich"
        if sandwich and config.qk_norm:  # Gemma's norms are all of one kind
            self.attn.q_norm = norm("sandwich", config.head_width, config.norm_eps)
            self.attn.k_norm = norm("sandwich", config.head_width, config.norm_eps)
        self.attn_post_norm = norm(config.norm, config.width, config.norm_eps) if sandwich else None
        self.mlp_norm = norm(config.norm, config.width, config.norm_eps)
        self.mlp_post_norm = norm(config.norm, config.width, config.norm_eps) if sandwich else None
        self.mlp = MLP(config.width, config.mlp_width, config.mlp, bias=config.bias in ("mlp", "all"))
        self.dropout = config.dropout

    def forward(self, x_BTD: Tensor, sight: Sight, memory: KeyValues | None, layer: int) -> Tensor:
        y_BTD = self.attn(self.attn_norm(x_BTD), sight, memory, layer)
        if self.attn_post_norm is not None:
            y_BTD = self.attn_post_norm(y_BTD)
        x_BTD = x_BTD + self._drop(y_BTD)
        y_BTD = self.mlp(self.mlp_norm(x_BTD))
        if self.mlp_post_norm is not None:
            y_BTD = self.mlp_post_norm(y_BTD)
        return x_BTD + self._drop(y_BTD)

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

    @property
    def branches(self) -> bool:
        """Whether several texts can share what they begin with; not where frequencies depend on a text's length."""
        return self.config.rope is None or self.config.rope.kind != "dynamic"

    def forward(
        self, tokens_BT: Tensor, segments_BT: Tensor | None = None, memory: KeyValues | None = None
    ) -> Tensor:
        """Hidden vectors [B, T, D] of every position."""
        if isinstance(memory, Rereading):
            again = memory.again(tokens_BT, _counts(tokens_BT, segments_BT))
            if again is not None:
                whole_BM, whole_segments_BM, wanted_BT = again
                hidden_BMD = self._read(whole_BM, whole_segments_BM, memory)
                return hidden_BMD[torch.arange(len(wanted_BT), device=wanted_BT.device)[:, None], wanted_BT]
        return self._read(tokens_BT, segments_BT, memory)

    def _read(self, tokens_BT: Tensor, segments_BT: Tensor | None, memory: KeyValues | None) -> Tensor:
        config = self.config
        seen = self._sights(tokens_BT, segments_BT, memory)
        x_BTD = self.embedding(tokens_BT)
        if config.norm == "sandwich":
            x_BTD = x_BTD * config.width**0.5
        if self.position is not None:
            x_BTD = x_BTD + self.position(seen[0].positions_BT)
        elif config.positions == "sinusoidal":
            x_BTD = x_BTD + sinusoids(seen[0].positions_BT, config.width).to(x_BTD.dtype)
        if config.dropout:
            x_BTD = F.dropout(x_BTD, config.dropout, self.training)
        for layer, block in enumerate(self.blocks):
            x_BTD = block(x_BTD, seen[layer], memory, layer)
        if memory is not None:
            memory.advance(_counts(tokens_BT, segments_BT))
        return self.norm(x_BTD)

    def _sights(self, tokens_BT: Tensor, segments_BT: Tensor | None, memory: KeyValues | None) -> list[Sight]:
        """What each layer sees; layers of one kind share it."""
        config, single = self.config, self.config.attention or Attending()
        lengths_BT = None
        if config.rope is not None and config.rope.kind == "dynamic":
            if memory is not None:
                lengths_B = memory.lengths_B + _counts(tokens_BT, segments_BT)
                lengths_BT = lengths_B[:, None].expand_as(tokens_BT)
            else:
                lengths_BT = lengths(torch.ones_like(tokens_BT) if segments_BT is None else segments_BT)
        made: dict[tuple, Sight] = {}
        sights = []
        for layer in range(config.layers):
            window = None if layer in single.full_layers else config.window
            turned = config.positions == "rotary" and layer not in single.no_rope_layers
            local = window is not None and single.local_rope_base is not None
            if (window, turned) not in made:
                base, rope = (single.local_rope_base, None) if local else (config.rope_base, config.rope)
                rotary = (config.head_width, base, rope, lengths_BT) if turned else None
                made[window, turned] = sight(tokens_BT, segments_BT, memory, window, rotary)
            sights.append(made[window, turned])
        return sights

    def head(self, hidden: Tensor) -> Tensor:
        """Logits [..., V]."""
        return self.output(hidden)

    def start(self, rows: int, length: int) -> KeyValues:
        """Room for `rows` sequences of at most `length` tokens."""
        config = self.config
        assert config.kv_heads and config.head_width
        room = (config.layers, rows, config.kv_heads, length, config.head_width, self.embedding.weight)
        if config.rope is not None and config.rope.kind == "dynamic":
            assert config.rope.original_context
            return Rereading(*room, right_up_to=config.rope.original_context)
        return KeyValues(*room)


def _counts(tokens_BT: Tensor, segments_BT: Tensor | None) -> Tensor:
    """Real tokens of each row."""
    if segments_BT is None:
        return tokens_BT.new_full((tokens_BT.shape[0],), tokens_BT.shape[1])
    return (segments_BT != 0).sum(dim=1)


def build(config: Config) -> Decoder:
    """A decoder with fresh weights."""
    return Decoder(config)
