"""The encoder-decoder Transformer of 2017, with pre- or post-norm, and T5, BART and Marian as settings of one Config.

    source = encoder(embed(source ids) + positions)          every position sees all of its source
    target = decoder(embed(target ids) + positions, source)  causal, and attending to the source
    logits = head(target)

1. Sinusoidal positions, post-norm, ReLU, embeddings scaled by sqrt(width) and one matrix for source, target and head
   are the original (Vaswani et al., arXiv 1706.03762).
2. `positions: relative` is T5's learned bias on the scores (arXiv 1910.10683), shared by all layers of a stack; the
   scores are then not scaled, since T5's initial weights are. `head_scaled` is T5's other habit.
3. Target segment n reads source segment n, so several pairs can share a row.
4. With a memory the source is encoded once; keys and values of both sides are kept.

Legend: B rows, T target positions, S source positions, M remembered positions, D width, H heads, V vocabulary.
Proved by tests/parity/test_encdec.py and tests/contract/test_models.py.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from ..core.config import Strict
from ..layers.attention import Sight, sight, visible_source
from ..layers.block import Block, Shape
from ..layers.memory import Encoded
from ..layers.norm import norm
from ..layers.positions import relative_buckets, sinusoids
from ..layers.source import Source
from .model import init_linear
from .presets import Preset, fill, head_width, mlp_width

BUCKETS, FARTHEST = 32, 128  # of T5's relative positions


class Config(Strict):
    """An encoder-decoder Transformer."""

    kind: Literal["encdec"] = "encdec"
    preset: Preset | None = Field(None, description="sizes by one word: nano, tiny, small, base")
    vocab: int | None = Field(
        None, gt=0, description="vocabulary size of both sides; default: the tokenizer's"
    )
    context: int = Field(256, gt=0, description="longest source and longest target in tokens")
    layers: int = Field(3, gt=0, description="of the decoder")
    encoder_layers: int | None = Field(None, gt=0, description="default: as many as layers")
    width: int = Field(256, gt=0)
    heads: int = Field(4, gt=0)
    head_width: int | None = Field(None, gt=0, description="default: width / heads")
    mlp_width: int | None = Field(None, gt=0, description="default: 4·width, for gated ones 8/3·width")
    positions: Literal["sinusoidal", "sinusoidal_halves", "learned", "relative", "none"] = "sinusoidal"
    norm: Literal["layernorm", "rmsnorm"] = "layernorm"
    norm_eps: float = Field(1e-5, gt=0)
    placement: Literal["pre", "post"] = Field(
        "pre", description="norm before each branch, or after it as in 2017"
    )
    mlp: Literal["relu", "gelu", "gelu_exact", "silu", "swiglu", "geglu"] = "relu"
    bias: bool = True
    embedding: Literal["plain", "scaled", "normed", "scaled_normed"] = Field(
        "scaled", description="scaled: times sqrt(width); normed: LayerNorm after it (BART)"
    )
    tied: bool = Field(True, description="one matrix for both embeddings and the head")
    head_scaled: bool = Field(False, description="hidden vectors times width^-½ before the head (T5)")
    output_bias: bool = False
    dropout: float = Field(0.0, ge=0, lt=1)
    source_bos: bool = Field(False, description="sources begin with bos too (BART)")
    start_id: int | None = Field(
        None, ge=0, description="first id of every target; default: the tokenizer's bos"
    )

    @model_validator(mode="before")
    @classmethod
    def _fill_preset(cls, values: Any) -> Any:
        return fill("encdec", values)

    @model_validator(mode="after")
    def _complete(self) -> Config:
        for name, value in (
            ("encoder_layers", self.encoder_layers or self.layers),
            ("head_width", head_width(self.width, self.heads, self.head_width)),
            ("mlp_width", self.mlp_width or mlp_width(self.width, self.mlp)),
        ):
            object.__setattr__(self, name, value)
        return self


class Stack(nn.Module):
    """Position encoding, blocks and last norm of one side."""

    def __init__(self, config: Config, layers: int, cross: bool) -> None:
        super().__init__()
        assert config.head_width and config.mlp_width
        self.config, self.causal = config, cross
        relative = config.positions == "relative"
        shape = Shape(
            config.width, config.heads, config.head_width, config.mlp_width, config.norm, config.norm_eps,
            config.placement, config.mlp, config.bias, config.dropout, 1.0 if relative else None,
        )  # fmt: skip
        self.position = nn.Embedding(config.context, config.width) if config.positions == "learned" else None
        self.relative = nn.Embedding(BUCKETS, config.heads) if relative else None
        self.embedding_norm = (
            norm(config.norm, config.width, config.norm_eps) if "normed" in config.embedding else None
        )
        self.blocks = nn.ModuleList(Block(shape, cross) for _ in range(layers))
        last = config.placement == "pre"
        self.norm = norm(config.norm, config.width, config.norm_eps) if last else nn.Identity()

    def forward(
        self, x_BTD: Tensor, segments_BT: Tensor | None, memory: Encoded | None = None,
        source: list[tuple[Tensor, Tensor]] | None = None, source_segments_BS: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """Hidden vectors of embedded tokens; `source` has the keys and values that each layer reads."""
        ids_BT = x_BTD[..., 0]
        shared = sight(ids_BT, segments_BT, memory, None, None, causal=self.causal)
        x_BTD = self._placed(x_BTD, shared.positions_BT)
        if self.relative is not None:
            shared = self._biased(shared, self.relative, memory)
        reads: Tensor | None = None
        if source_segments_BS is not None:
            if memory is not None or segments_BT is None:
                segments_BT = torch.ones_like(shared.positions_BT)
            reads = visible_source(segments_BT, source_segments_BS)
        for layer, block in enumerate(self.blocks):
            x_BTD = block(x_BTD, shared, memory, layer, None if source is None else (source[layer], reads))
        return self.norm(x_BTD)

    def _placed(self, x_BTD: Tensor, positions_BT: Tensor) -> Tensor:
        """Embeddings with their positions, normed and dropped out as the settings say."""
        config = self.config
        if "scaled" in config.embedding:
            x_BTD = x_BTD * config.width**0.5
        if self.position is not None:
            x_BTD = x_BTD + self.position(positions_BT)
        elif config.positions.startswith("sinusoidal"):
            p_BTD = sinusoids(positions_BT, config.width)
            if config.positions == "sinusoidal_halves":
                p_BTD = torch.cat((p_BTD[..., 0::2], p_BTD[..., 1::2]), dim=-1)
            x_BTD = x_BTD + p_BTD.to(x_BTD.dtype)
        if self.embedding_norm is not None:
            x_BTD = self.embedding_norm(x_BTD)
        return F.dropout(x_BTD, config.dropout, self.training) if config.dropout else x_BTD

    def _biased(self, shared: Sight, relative: nn.Embedding, memory: Encoded | None) -> Sight:
        """The sight with T5's bias on the scores, and the mask in the same tensor."""
        keys_BM = shared.positions_BT
        if memory is not None:
            slots = memory.longest + shared.positions_BT.shape[1]
            keys_BM = torch.arange(slots, device=keys_BM.device).expand(len(keys_BM), slots)
        distance_BTM = keys_BM[:, None, :] - shared.positions_BT[:, :, None]
        buckets_BTM = relative_buckets(distance_BTM, BUCKETS, FARTHEST, both_ways=not self.causal)
        bias_BHTM = relative(buckets_BTM).permute(0, 3, 1, 2)
        seen = shared.mask
        if seen is None and self.causal:
            order_T = torch.arange(bias_BHTM.shape[-2], device=bias_BHTM.device)
            seen = torch.arange(bias_BHTM.shape[-1], device=bias_BHTM.device) <= order_T[:, None]
        if seen is not None:
            bias_BHTM = bias_BHTM.masked_fill(~seen, float("-inf"))
        return Sight(shared.positions_BT, bias_BHTM, None, self.causal)


class EncDec(nn.Module):
    """See the module's docstring."""

    generates = True
    reads_source = True

    def __init__(self, config: Config) -> None:
        super().__init__()
        assert config.encoder_layers
        self.config = config
        self.embedding = nn.Embedding(config.vocab, config.width)
        self.encoder = Stack(config, config.encoder_layers, cross=False)
        self.decoder = Stack(config, config.layers, cross=True)
        self.output = nn.Linear(config.width, config.vocab, bias=config.output_bias)
        init_linear(self, residual={"out", "down"}, layers=config.layers)
        std = config.width**-0.5 if "scaled" in config.embedding else 0.02
        nn.init.normal_(self.embedding.weight, std=std)
        if config.tied:
            self.output.weight = self.embedding.weight

    @property
    def max_length(self) -> int | None:
        """Longest source and target in tokens; only learned positions have a limit."""
        return self.config.context if self.config.positions == "learned" else None

    def forward(
        self, tokens_BT: Tensor, segments_BT: Tensor | None = None, memory: Encoded | None = None,
        source: Source | None = None,
    ) -> Tensor:  # fmt: skip
        """Hidden vectors [B, T, D] of every target position; the source comes beside, or lies in the memory."""
        x_BTD = self.embedding(tokens_BT)
        if memory is not None:
            x_BTD = self.decoder(x_BTD, segments_BT, memory, memory.source, memory.source_segments_BS)
            counts_B = (
                tokens_BT.new_full((len(tokens_BT),), tokens_BT.shape[1])
                if segments_BT is None
                else (segments_BT != 0).sum(dim=1)
            )
            memory.advance(counts_B)
            return x_BTD
        if source is None:
            raise ValueError("an encoder-decoder model needs a source")
        return self.decoder(x_BTD, segments_BT, None, self.encode(source), source.segments_BS)

    def encode(self, source: Source) -> list[tuple[Tensor, Tensor]]:
        """Keys and values [B, H, S, C] that each decoder layer reads of the source."""
        x_BSD = self.encoder(self.embedding(source.tokens_BS), source.segments_BS)
        return [block.cross.read(x_BSD) for block in self.decoder.blocks]

    def head(self, hidden: Tensor) -> Tensor:
        """Logits [..., V]."""
        if self.config.head_scaled:
            hidden = hidden * self.config.width**-0.5
        return self.output(hidden)

    def start(self, rows: int, length: int, source: Source) -> Encoded:
        """The encoded source, and room for `rows` targets of at most `length` tokens."""
        config = self.config
        assert config.head_width
        memory = Encoded(config.layers, rows, config.heads, length, config.head_width, self.embedding.weight)
        return memory.read(self.encode(source), source.segments_BS)


def build(config: Config) -> EncDec:
    """An encoder-decoder with fresh weights."""
    return EncDec(config)
