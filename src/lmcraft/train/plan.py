"""Whether training fits, before it starts: bytes by what they are for, operations, and the time they take here.

    peak = counted bytes (lmcraft.train.rehearsal) + what lies between them (lmcraft.train.extent) + FIRST_USE

1. On a CPU the peak is the extent of the C library's heap, which is replayed with the blocks of the rehearsal. It is
   that of a process which `lmcraft train` has started (lmcraft.core.heap); one that Python code trains in, without the
   environment variable named there, can need half as much again and more.
2. FIRST_USE: code and tables of the libraries that the first step touches, and the heap's room for small objects.
   float32: resident memory less the heap's extent in four runs whose allocations were recorded (37.4 to 38.4 MB);
   bf16: fitted to the 13 runs of benchmarks/plan_grid.py that use it (51). glibc 2.36 and torch 2.13 on one core. Two
   and a half megabytes stand on top: the same run differs by more from day to day, and too low is the worse error.
3. With N processes: all of it in each (ddp) and a bucket of gradients; or shares of weights, gradients and optimizer,
   and the largest block put together twice (fsdp). Neither this nor what offload leaves was compared with real runs.
4. An accelerator has no such heap; its allocator rounds to 2 MiB, which is not counted.
5. Seconds are operations by EFFICIENCY of the speed of a step's products, alone. The part that is not products differs.

Proved by tests/unit/train/test_plan.py, tests/unit/train/test_plan_grid.py and benchmarks/plan_grid.py.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from . import loop
from .footprint import Footprint, among
from .ledger import GRADIENTS, OPTIMIZER, PARAMETERS
from .rehearsal import Rows, rehearse
from .shards import BLOCKS

FIRST_USE, FIRST_USE_BF16 = 40_500_000, 53_500_000  # bytes; kernels for bf16 are made at run time
SCATTERED, LIBRARIES, GATHERED = (
    "between tensors, unusable",
    "libraries, at first use",
    "sent or put together",
)
BUCKET_BYTES = 4 << 23
CALIBRATION_S = 0.3
# Of a step's speed to that of its products: 0.84 (decoder 4 × 256, fp32), 0.64 (the same, bf16) and 0.60 (3 × 512,
# LoRA, bf16) on one core of an AMD EPYC.
EFFICIENCY = 0.65


@dataclass(frozen=True)
class Plan:
    """What one process holds at its peak, by what it is for, and what a step computes.

    Attributes:
        parts: bytes in memory.
        on_disk: bytes in files instead.
        operations: floating-point operations of one optimizer step, of all processes together.
    """

    parts: dict[str, int]
    on_disk: int
    parameters: int
    trained: int
    operations: int
    ranks: int = 1

    @property
    def peak(self) -> int:
        """Bytes above what the process had before the model was made."""
        return sum(self.parts.values())

    def seconds(self, operations_per_s: float) -> float:
        """Of one optimizer step."""
        return self.operations / self.ranks / operations_per_s


def plan(
    stage: Any, model: nn.Module, shape: Rows, config: loop.Config, ranks: int = 1, sharded: bool = False
) -> Plan:
    """Plans the training of a model, which may be without memory.

    Args:
        config: complete: lr and precision are set; its batch is that of all processes.
        sharded: whether weights are cut over the processes (fsdp).
    """
    own = config.model_copy(update={"batch_size": max(1, config.batch_size // ranks)})
    counted = rehearse(stage, model, shape, own)
    parts = {name: round(size) for name, size in counted.parts.items()}
    if ranks > 1:
        parts |= _shared(parts, model, ranks, sharded)
    on_cpu = next(model.parameters()).device.type != "cuda"
    if on_cpu:
        parts[SCATTERED] = round(counted.scattered)
        parts[LIBRARIES] = FIRST_USE_BF16 if config.precision == "bf16" else FIRST_USE
    parts = dict(sorted(parts.items(), key=lambda item: -item[1]))
    return Plan(
        parts,
        round(counted.on_disk),
        counted.parameters,
        counted.trained,
        round(counted.operations * ranks),
        ranks,
    )


def _shared(parts: dict[str, int], model: nn.Module, ranks: int, sharded: bool) -> dict[str, int]:
    """What changes with several processes."""
    whole = Footprint(*(parts.get(part, 0) for part in (PARAMETERS, GRADIENTS, OPTIMIZER)))
    each = among(whole, ranks, "fsdp" if sharded else "ddp", _largest(model), BUCKET_BYTES)
    return {
        PARAMETERS: each.parameters, GRADIENTS: each.gradients, OPTIMIZER: each.optimizer, GATHERED: each.gathered
    }  # fmt: skip


def _largest(model: nn.Module) -> int:
    """Bytes that FSDP puts together at a time: two blocks, and what is in no block."""
    blocks = [
        sum(p.numel() * p.element_size() for p in block.parameters())
        for name, module in model.named_modules()
        if name.rpartition(".")[2] == BLOCKS and isinstance(module, nn.ModuleList)
        for block in module
    ]
    whole = sum(p.numel() * p.element_size() for p in model.parameters())
    return whole - sum(blocks) + 2 * max(blocks, default=0)


def calibrate(width: int, inner: int, rows: int, precision: str = "fp32") -> float:
    """Floating-point operations a second of products of a model's shapes, on this machine, now."""
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision, torch.float32)
    rows = min(rows, 2048)
    x, weight = torch.ones(rows, width, dtype=dtype), torch.ones(inner, width, dtype=dtype)
    gradient = torch.ones(rows, inner, dtype=dtype)
    best, started = 0.0, time.perf_counter()
    while time.perf_counter() - started < CALIBRATION_S:
        before = time.perf_counter()
        x @ weight.T, gradient @ weight, gradient.T @ x  # forward and both halves of the backward
        best = max(best, 6 * rows * width * inner / (time.perf_counter() - before))
    return best * EFFICIENCY
