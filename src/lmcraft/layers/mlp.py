"""The position-wise feed-forward block: GELU as in GPT-2, or the gated SwiGLU of Llama.

GELU: down(gelu(up(x))), with the tanh approximation that GPT-2 uses. SwiGLU: down(silu(gate(x)) · up(x)) (Shazeer,
arXiv 2002.05202).

Proved by tests/parity/test_decoder.py.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class MLP(nn.Module):
    """Two or three projections between width D and feed-forward width F."""

    def __init__(self, width: int, mlp_width: int, kind: str, bias: bool) -> None:
        super().__init__()
        self.kind = kind
        self.up = nn.Linear(width, mlp_width, bias=bias)
        self.gate = nn.Linear(width, mlp_width, bias=bias) if kind == "swiglu" else None
        self.down = nn.Linear(mlp_width, width, bias=bias)

    def forward(self, x_BTD: Tensor) -> Tensor:
        if self.gate is not None:
            return self.down(F.silu(self.gate(x_BTD)) * self.up(x_BTD))
        return self.down(F.gelu(self.up(x_BTD), approximate="tanh"))
