"""Gradient checkpointing: a block's activations are thrown away after the forward and made again in the backward.

Chen et al., arXiv 1604.06174: memory of one block and one vector a position and layer, for one more forward.

1. A block is an entry of a ModuleList named `blocks`. Its `forward` is replaced while training lasts, so what stands
   beside it (adapters, sharding) acts as ever.
2. torch's non-reentrant form: gradients reach trained parts of a block whose input needs none, as on a frozen base.
3. The state of the random generators is put back for the second forward, so dropout draws the same numbers twice.

Proved by tests/invariance/test_recompute.py.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from ..core.errors import UserError
from .shards import BLOCKS


def blocks_of(model: nn.Module, asked: str) -> list[nn.Module]:
    """The Transformer blocks of a model, in order.

    Args:
        asked: the setting that needs them, for the message.

    Raises:
        UserError: it has none.
    """
    found = [
        block
        for name, module in model.named_modules()
        if name.rpartition(".")[2] == BLOCKS and isinstance(module, nn.ModuleList)
        for block in module
    ]
    if not found:
        raise UserError(
            f"a model of kind {model.config.kind} has no blocks for {asked}", where=asked,
            why="a recurrent network is one chain of states: there is no layer to leave and come back to",
            fix=f"leave {asked} out; a smaller train.micro_batch_size needs less memory and changes no number",
        )  # fmt: skip
    return found


@contextlib.contextmanager
def recomputing(model: nn.Module, on: bool) -> Iterator[None]:
    """Within it, each block keeps only its input for the backward, if `on`."""
    blocks = blocks_of(model, "train.checkpointing=true") if on else []
    for block in blocks:
        block.forward = _twice(block.forward)
    try:
        yield
    finally:
        for block in blocks:
            del block.forward  # the class's own is back


def _twice(forward: Callable) -> Callable:
    def run(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        return checkpoint(forward, *args, use_reentrant=False, **kwargs)

    return run
