"""Layer normalisation and RMS normalisation, in float32 or better whatever the precision around them.

RMSNorm: x / sqrt(mean(x²) + eps) · weight (Zhang and Sennrich, arXiv 1910.07467). Gemma multiplies with 1 + weight and
keeps the weight as it is on disk, so that nothing is rounded between the two.

Proved by tests/parity/test_decoder.py.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class RMSNorm(nn.Module):
    """Root-mean-square normalisation over the last dimension.

    Args:
        offset: multiplies with `offset` + weight.
    """

    def __init__(self, width: int, eps: float, offset: float = 0.0) -> None:
        super().__init__()
        self.eps, self.offset = eps, offset
        self.weight = nn.Parameter(torch.full((width,), 1.0 - offset))

    def forward(self, x: Tensor) -> Tensor:
        weight = self.offset + self.weight if self.offset else self.weight
        return F.rms_norm(_wide(x), weight.shape, weight, self.eps).to(x.dtype)


class LayerNorm(nn.Module):
    """Layer normalisation over the last dimension, with bias."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(_wide(x), self.weight.shape, self.weight, self.bias, self.eps).to(x.dtype)


def norm(kind: str, width: int, eps: float) -> nn.Module:
    """The normalisation named `kind`: `rmsnorm`, `layernorm`, or `sandwich` for that of Gemma."""
    if kind == "layernorm":
        return LayerNorm(width, eps)
    return RMSNorm(width, eps, offset=1.0 if kind == "sandwich" else 0.0)


def _wide(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
