"""The Transformer block with its norms before or after: self-attention, attention to a source if there is one, MLP.

    pre:  x = x + f(norm(x))      post (2017):  x = norm(x + f(x))

Xiong et al., arXiv 2002.04745, compare the two places of the norm.

Legend: B rows, T positions, D width.
Proved by tests/parity/test_encdec.py and tests/contract/test_models.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from .attention import Attention, CrossAttention, Sight
from .memory import KeyValues
from .mlp import MLP
from .norm import norm

# Keys and values [B, K, S, C] of the source for one layer, and who sees them.
Reads = tuple[tuple[Tensor, Tensor], Tensor | None]


@dataclass(frozen=True)
class Shape:
    """The sizes and kinds that all blocks of a stack share."""

    width: int
    heads: int
    head_width: int
    mlp_width: int
    norm: str
    norm_eps: float
    placement: str
    mlp: str
    bias: bool
    dropout: float
    scale: float | None = None


class Block(nn.Module):
    """Self-attention, cross-attention if `cross`, and the MLP, each around a residual."""

    def __init__(self, shape: Shape, cross: bool) -> None:
        super().__init__()
        self.pre, self.dropout = shape.placement == "pre", shape.dropout
        sizes = (shape.width, shape.heads, shape.heads, shape.head_width, shape.bias, shape.bias)
        self.attn_norm = norm(shape.norm, shape.width, shape.norm_eps)
        self.attn = Attention(*sizes, scale=shape.scale)
        self.cross_norm = norm(shape.norm, shape.width, shape.norm_eps) if cross else None
        self.cross = CrossAttention(*sizes, scale=shape.scale) if cross else None
        self.mlp_norm = norm(shape.norm, shape.width, shape.norm_eps)
        self.mlp = MLP(shape.width, shape.mlp_width, shape.mlp, shape.bias)

    def forward(
        self, x_BTD: Tensor, sight: Sight, memory: KeyValues | None = None, layer: int = 0,
        reads: Reads | None = None,
    ) -> Tensor:  # fmt: skip
        x_BTD = self._around(x_BTD, self.attn_norm, lambda x_BTD: self.attn(x_BTD, sight, memory, layer))
        if self.cross is not None and self.cross_norm is not None:
            assert reads is not None, "a block with cross-attention was given no source"
            cross = self.cross
            x_BTD = self._around(x_BTD, self.cross_norm, lambda x_BTD: cross(x_BTD, *reads))
        return self._around(x_BTD, self.mlp_norm, self.mlp)

    def _around(self, x_BTD: Tensor, norm: nn.Module, branch) -> Tensor:
        y_BTD = branch(norm(x_BTD) if self.pre else x_BTD)
        if self.dropout:
            y_BTD = F.dropout(y_BTD, self.dropout, self.training)
        return x_BTD + y_BTD if self.pre else norm(x_BTD + y_BTD)
