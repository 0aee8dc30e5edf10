"""Two optimizer steps on tensors without memory: what training would hold, before it starts.

The real loop runs the real stage, model, adapters and optimizer (lmcraft.train.weightless), so nothing is described
twice and whatever can be trained can be planned. Only batches are made up, from what is known of the rows.

1. Two steps: in the first the optimizer makes its state, in the second it has it, and from then on nothing grows.
2. More than two micro-batches a step are like two: the first has no gradients to add to, the others have.
3. Blocks that are alike hold the same, so of many such blocks only few are rehearsed and the rest is extrapolated.
   Blocks that differ (the last ones are trained, the others frozen) are all rehearsed beside them.

Legend: B rows, T positions, S source positions.
Proved by tests/unit/train/test_rehearsal.py and benchmarks/plan_grid.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..data.batch import IGNORE, Batch
from ..layers.source import Source
from ..models.model import count_parameters
from . import loop
from .ledger import OPTIMIZER, PARAMETERS, UPDATE, Ledger, held_by
from .shards import BLOCKS
from .weightless import Weightless

STEPS = 2
MICRO_BATCHES = 2
ON_DISK = "on disk"
WHOLE = 8  # as many blocks that are alike are all rehearsed
# From so many, more are extrapolated; far apart, because the extent of a heap is no straight line.
FEW = (3, 6)


@dataclass(frozen=True)
class Rows:
    """What the rows of a batch look like.

    Attributes:
        width: positions of a row.
        source: positions of its source; 0 where none is read.
        documents: how many share a row.
        trained: share of the positions that are targets.
        filled: share of the positions that hold a token.
        one_target: the only target is at the first position of each row (a label of the whole row).
        group: rows whose loss depends on one another.
        signals: names of the numbers that each row has beside its tokens.
        token_signals: names of those that each position has.
    """

    width: int
    source: int = 0
    documents: int = 1
    trained: float = 1.0
    filled: float = 1.0
    one_target: bool = False
    group: int = 1
    signals: tuple[str, ...] = ()
    token_signals: tuple[str, ...] = ()

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
        signals = {name: torch.ones(rows) for name in self.signals}
        signals |= {name: torch.ones(rows, self.width) for name in self.token_signals}
        return Batch(torch.zeros_like(segments_BT), targets_BT, segments_BT, [], source, self.group, signals)


def _segments(rows: int, width: int, documents: int, filled: float) -> Tensor:
    used = max(documents, round(filled * width))
    numbers_T = torch.arange(width) * documents // used + 1
    numbers_T[used:] = 0
    return numbers_T.expand(rows, width).clone()


class _Batches:
    """Stands in for the loader."""

    epoch, seed = 0.0, 0

    def __init__(self, shape: Rows, rows: int) -> None:
        self.shape, self.rows = shape, rows

    def next(self) -> Batch:
        return self.shape.batch(self.rows)


@dataclass(frozen=True)
class Rehearsal:
    """What was counted.

    Attributes:
        parts: bytes by what they are for, at the moment of the peak.
        parameters: numbers of the model; `trained`: those with a gradient.
        operations: floating-point operations of a whole optimizer step.
        on_disk: bytes that lie in files instead.
        scattered: bytes of a CPU's heap that lie between tensors at its largest extent.
    """

    parts: dict[str, float]
    parameters: int
    trained: int
    operations: float
    on_disk: float = 0.0
    scattered: float = 0.0

    @property
    def live(self) -> float:
        """Bytes in all."""
        return sum(self.parts.values())


def rehearse(stage: Any, model: nn.Module, shape: Rows, config: loop.Config) -> Rehearsal:
    """Counts what training would hold.

    Args:
        model: with or without memory; it is copied.
        config: complete: lr and precision are set.
    """
    counts = {len(_alike(stack)) for stack in _stacks(model)}
    layers = max(counts, default=0)
    if layers <= WHOLE or len(counts) > 1:
        found, operations, extent = _counted(stage, model, shape, config, None)
    else:
        (low, low_operations, low_extent), (high, high_operations, high_extent) = (
            _counted(stage, model, shape, config, few) for few in FEW
        )
        more = (layers - FEW[0]) / (FEW[1] - FEW[0])
        found = {phase: _extrapolated(low[phase], high[phase], more) for phase in low}
        operations = low_operations * (1 - more) + high_operations * more
        extent = low_extent * (1 - more) + high_extent * more
    scattered = extent - max(sum(parts.values()) for parts in found.values())
    parts = max(
        (_offloaded(parts, model, config) for parts in found.values()), key=lambda parts: sum(parts.values())
    )
    on_disk = parts.pop(ON_DISK, 0.0)
    return Rehearsal(
        parts,
        count_parameters(model),
        sum(p.numel() for p in model.parameters() if p.requires_grad),
        operations,
        on_disk,
        max(0.0, scattered),
    )


def _extrapolated(low: dict[str, float], high: dict[str, float], more: float) -> dict[str, float]:
    """Bytes of a deeper model from those of two shallow ones."""
    sums = {name: low.get(name, 0.0) * (1 - more) + high.get(name, 0.0) * more for name in {**low, **high}}
    return {name: size for name, size in sums.items() if size > 0}


def _counted(
    stage: Any, model: nn.Module, shape: Rows, config: loop.Config, layers: int | None
) -> tuple[dict[str, dict[str, float]], float, float]:
    """Bytes at the fullest moment of each phase, operations of a step, and how far a heap would grow.

    Args:
        layers: with so many of the blocks that are alike only.
    """
    micro = min(config.micro_batch_size or config.batch_size, config.batch_size)
    rows = min(config.batch_size, MICRO_BATCHES * micro)
    short = config.model_copy(
        update={"steps": STEPS, "batch_size": rows, "offload": "none", "parallel": "none"}
    )
    ledger = Ledger()
    mode = Weightless(ledger)
    model = mode.copy(model)
    for stack in _stacks(model) if layers is not None else []:
        for number in reversed(_alike(stack)[layers:]):
            del stack[number]
    with mode, ledger.watching(model):
        for _ in loop.train(stage, model, _Batches(shape, rows), short, None, lambda _: None):
            pass
    parts = {
        phase: {name: float(size) for name, size in peak.items() if size > 0}
        for phase, peak in ledger.peaks.items()
    }
    done = mode.operations
    read = (done.total() - done[UPDATE]) * config.batch_size / rows
    return parts, (read + done[UPDATE]) / STEPS, ledger.heap.extent


def _alike(stack: nn.ModuleList) -> list[int]:
    """The places of the largest group of blocks that hold the same, trained or frozen alike."""
    groups: dict[tuple, list[int]] = {}
    for number, block in enumerate(stack):
        kinds = tuple(type(part) for part in block.modules())
        tensors = tuple((tensor.shape, tensor.dtype, tensor.requires_grad) for tensor in held_by(block))
        groups.setdefault((kinds, tensors), []).append(number)
    return max(groups.values(), key=len)


def _stacks(model: nn.Module) -> list[nn.ModuleList]:
    """The lists of Transformer blocks."""
    return [
        module for name, module in model.named_modules()
        if name.rpartition(".")[2] == BLOCKS and isinstance(module, nn.ModuleList)
    ]  # fmt: skip


def _offloaded(parts: dict[str, float], model: nn.Module, config: loop.Config) -> dict[str, float]:
    """The same with what lies on disk taken out; one block's weights, and one tensor's averages, come in at a time."""
    parts, on_disk = dict(parts), 0.0
    if config.offload in ("optimizer", "both"):
        trained = [p.numel() * p.element_size() for p in model.parameters() if p.requires_grad]
        size = parts.get(OPTIMIZER, 0.0)
        parts[OPTIMIZER] = min(size, 2.0 * max(trained, default=0))
        on_disk += size - parts[OPTIMIZER]
    if config.offload in ("parameters", "both"):
        frozen = [
            sum(p.numel() * p.element_size() for p in block.parameters() if not p.requires_grad)
            for stack in _stacks(model) for block in stack
        ]  # fmt: skip
        out = float(sum(frozen) - max(frozen, default=0))
        parts[PARAMETERS] = parts.get(PARAMETERS, 0.0) - out
        on_disk += out
    return {**parts, ON_DISK: on_disk} if on_disk else parts
