"""A few optimizer steps on tensors without memory: what training would hold, before it starts.

The real loop runs the real stage, model, adapters and optimizer (lmcraft.train.weightless), so nothing is described twice
and whatever can be trained can be planned. Only batches are made up, from what is known of the rows.

1. Three steps: in the first the optimizer makes its state, in the second it has it, and from then on nothing grows.
2. More than three micro-batches a step are like three: the first has no gradients to add to, the others have.

Legend: B rows, T positions, S source positions.
Proved by tests/unit/train/test_rehearsal.py and benchmarks/plan_grid.py.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..data.batch import IGNORE, Batch
from ..layers.source import Source
from . import loop
from .ledger import Ledger
from .weightless import Weightless

STEPS = 3
MICRO_BATCHES = 3


@dataclass(frozen=True)
class Rows:
    """What the rows of a batch look like.

    Attributes:
        width: positions of a row.
        source: positions of its source; 0 where none is read.
        documents: how many share a row.
        trained: share of the positions that are targets.
        filled: share of the positions that hold a token.
        last: the only target is at the first position of each row (a label of the whole row).
        group: rows whose loss depends on one another.
    """

    width: int
    source: int = 0
    documents: int = 1
    trained: float = 1.0
    filled: float = 1.0
    one_target: bool = False
    group: int = 1

    def batch(self, rows: int) -> Batch:
        """Such a batch; the tokens are all 0."""
        segments_BT = _segments(rows, self.width, self.documents, self.filled)
        targets_BT = torch.full((rows, self.width), IGNORE)
        if self.one_target:
            targets_BT[:, 0] = 0
        else:
            targets_BT[:, : max(1, round(self.trained * self.width))] = 0
        source = None
        if self.source:
            segments_BS = _segments(rows, self.source, self.documents, self.filled)
            source = Source(torch.zeros_like(segments_BS), segments_BS)
        return Batch(torch.zeros_like(segments_BT), targets_BT, segments_BT, [], source, self.group)


def _segments(rows: int, width: int, documents: int, filled: float) -> Tensor:
    used = max(documents, round(filled * width))
    numbers_T = torch.arange(width) * documents // used + 1
    numbers_T[used:] = 0
    return numbers_T.expand(rows, width).clone()


class _Batches:
    """Stands in for the loader."""

    read, epoch, seed = 0, 0.0, 0

    def __init__(self, shape: Rows, rows: int) -> None:
        self.shape, self.rows = shape, rows

    def next(self) -> Batch:
        return self.shape.batch(self.rows)


@dataclass(frozen=True)
class Rehearsal:
    """What was counted.

    Attributes:
        parts: bytes by what they are for, at the moment of the peak.
        scattered: bytes that the allocator could not use.
        trained: parameters with a gradient.
    """

    parts: dict[str, int]
    scattered: int
    parameters: int
    trained: int
    events: Counter[str] = field(default_factory=Counter)

    @property
    def peak(self) -> int:
        """Bytes in all."""
        return sum(self.parts.values()) + self.scattered


def rehearse(stage: Any, model: nn.Module, shape: Rows, config: loop.Config, steps: int = STEPS) -> Rehearsal:
    """Counts what training would hold.

    Args:
        model: with or without memory; it is copied.
        config: complete: lr and precision are set.
    """
    micro = config.micro_batch_size or config.batch_size
    rows = min(config.batch_size, MICRO_BATCHES * micro)
    short = config.model_copy(update={"steps": steps, "batch_size": rows})
    ledger = Ledger()
    with Weightless(ledger) as mode:
        model = mode.copy(model)
        with ledger.watching(model):
            for _ in loop.train(stage, model, _Batches(shape, rows), short, None, lambda _: None):
                pass
    parts = {name: size for name, size in ledger.peak.items() if size > 0}
    counted = [(p.numel(), p.requires_grad) for p in model.parameters()]
    return Rehearsal(
        parts, ledger.heap.top - sum(parts.values()), sum(n for n, _ in counted), sum(n for n, grad in counted if grad)
    )  # fmt: skip
