"""In which numbers a step computes: float32, or bfloat16 products over float32 weights.

`auto` measures one matrix product of each kind and takes bfloat16 only where it is clearly faster: processors without
bfloat16 instructions are several times slower with it. The choice is written into the run's config, so that a resumed
run computes as it began.

Proved by tests/unit/train/test_precision.py.
"""

from __future__ import annotations

import contextlib
import time
from typing import Literal

import torch

Precision = Literal["auto", "fp32", "bf16"]
WORTH_IT = 1.5


def choose(precision: Precision, device: torch.device) -> Literal["fp32", "bf16"]:
    """What `auto` means on this machine."""
    if precision != "auto":
        return precision
    return "bf16" if _seconds(torch.bfloat16, device) * WORTH_IT < _seconds(torch.float32, device) else "fp32"


def computing(precision: str, device: torch.device) -> contextlib.AbstractContextManager:
    """The context in which forward and loss run."""
    if precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def _seconds(dtype: torch.dtype, device: torch.device) -> float:
    """Shortest of a few products of a typical shape."""
    a, b = (torch.ones(shape, dtype=dtype, device=device) for shape in ((2048, 256), (256, 1024)))
    best = float("inf")
    for _ in range(6):
        start = time.perf_counter()
        a @ b
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return best
