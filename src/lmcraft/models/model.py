"""The protocol behind which every architecture stands, and how one is built from its Config.

A model is three calls: `forward(tokens, segments, memory) → hidden`, `head(hidden) → logits`, and
`start(rows, length) → Memory`. Nothing else of it is known to training, generation or evaluation. A model that
`reads_source` takes the source as well: `forward(…, source=)` where it is trained, `start(rows, length, source)`
where it writes. A model that does not generate (an encoder) has no memory.

Legend: B rows, T positions, D width, V vocabulary.
Proved by tests/contract/test_models.py.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from ..core import find
from ..core.config import Strict
from ..layers.memory import Memory

SAMPLES = 64  # numbers of a tensor by which it is recognised


class Model(Protocol):
    """What training, generation and evaluation may ask of a model."""

    config: Any
    generates: bool
    reads_source: bool

    @property
    def max_length(self) -> int | None:
        """Longest sequence in tokens; None where there is no limit."""
        ...

    def __call__(
        self, tokens_BT: Tensor, segments_BT: Tensor | None = None, memory: Memory | None = None
    ) -> Tensor:
        """Hidden vectors [B, T, D]; with a memory, the tokens continue what it holds."""
        ...

    def head(self, hidden: Tensor) -> Tensor:
        """Logits over the vocabulary for any leading shape: [..., D] → [..., V]."""
        ...

    def start(self, rows: int, length: int) -> Memory:
        """An empty memory for `rows` sequences of at most `length` tokens."""
        ...


def build(config: Strict) -> nn.Module:
    """The model that a Config describes, with fresh weights drawn from torch's global generator."""
    return cast(nn.Module, find.module("models", cast(Any, config).kind).build(config))


def count_parameters(model: nn.Module) -> int:
    """Number of parameters, tied ones once; a matrix kept in few bits (`numel`) counts as what it stands for."""
    packed = [module.numel() for module in model.modules() if hasattr(module, "numel")]
    return sum(parameter.numel() for parameter in model.parameters()) + sum(packed)


@torch.no_grad()
def fingerprint(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """SHA-256 of the names and shapes of tensors, and of up to SAMPLES numbers of each, evenly spread.

    Training changes nearly all numbers, so another model is noticed, and a large one costs nothing.
    """
    total = hashlib.sha256()
    for name, tensor in tensors:
        flat = tensor.detach().reshape(-1)
        # Places in whole numbers: a float32 cannot name every place of a large tensor.
        count = min(SAMPLES, len(flat))
        some = flat[torch.arange(count, device=flat.device) * (len(flat) - 1) // max(1, count - 1)]
        total.update(f"{name} {list(tensor.shape)}\n".encode())
        total.update(some.double().cpu().numpy().tobytes())
    return total.hexdigest()


def init_linear(model: nn.Module, residual: set[str], layers: int) -> None:
    """Draws linear weights with std 1/sqrt(fan-in) and zero biases, embeddings with std 0.02.

    Projections that end a residual branch (their last name is in `residual`) are scaled by 1/sqrt(2·layers), so that
    the stream's variance does not grow with depth (GPT-2).
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            std = module.in_features**-0.5
            if name.rsplit(".", 1)[-1] in residual:
                std /= (2 * layers) ** 0.5
            nn.init.normal_(module.weight, std=std)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
