"""Layer normalisation and RMS normalisation, in float32 or better whatever the precision around them.

RMSNorm: x / sqrt(mean(x²) + eps) · weight (Zhang and Sennrich, arXiv 1910.07467).

Proved by tests/parity/test_decoder.py.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class RMSNorm(nn.Module):
    """Root-mean-square normalisation over the last dimension."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(_wide(x), self.weight.shape, self.weight, self.eps).to(x.dtype)


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
    """The normalisation named `kind` (`rmsnorm` or `layernorm`)."""
    return {"rmsnorm": RMSNorm, "layernorm": LayerNorm}[kind](width, eps)


def _wide(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
