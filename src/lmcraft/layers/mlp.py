"""The position-wise feed-forward block: plain (ReLU, GELU, SiLU), or gated as in Llama, Gemma and T5 v1.1.

Plain: down(f(up(x))) with f = relu (Vaswani et al.), gelu with GPT-2's tanh approximation, gelu_exact (BERT, BART),
or silu (Marian). Gated: down(f(gate(x)) · up(x)), swiglu with silu, geglu with gelu's tanh approximation (Shazeer,
arXiv 2002.05202).

Proved by tests/parity.
"""

from __future__ import annotations

from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

PLAIN = {
    "relu": F.relu, "gelu": partial(F.gelu, approximate="tanh"), "gelu_exact": F.gelu, "silu": F.silu,
}  # fmt: skip
GATED = {"swiglu": F.silu, "geglu": PLAIN["gelu"]}


class MLP(nn.Module):
    """Two or three projections between width D and feed-forward width F."""

    def __init__(self, width: int, mlp_width: int, kind: str, bias: bool) -> None:
        super().__init__()
        self.activation = GATED[kind] if kind in GATED else PLAIN[kind]
        self.up = nn.Linear(width, mlp_width, bias=bias)
        self.gate = nn.Linear(width, mlp_width, bias=bias) if kind in GATED else None
        self.down = nn.Linear(mlp_width, width, bias=bias)

    def forward(self, x_BTD: Tensor) -> Tensor:
        if self.gate is not None:
            return self.down(self.activation(self.gate(x_BTD)) * self.up(x_BTD))
        return self.down(self.activation(self.up(x_BTD)))
