"""In which numbers a step computes: float32, or bfloat16 or float16 products over float32 weights.

`auto` measures one matrix product of each kind and takes bfloat16 only where it is clearly faster: processors without
bfloat16 instructions are several times slower with it. The choice is written into the run's config, so that a resumed
run computes as it began. float16 is never chosen by itself: it needs a scaled loss (scaling.py), and pays only on
accelerators without bfloat16.

Proved by tests/unit/train/test_precision.py.
"""

from __future__ import annotations

import contextlib
import functools
import time
from typing import Literal

import torch

Precision = Literal["auto", "fp32", "bf16", "fp16"]
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
WORTH_IT = 1.5
PRODUCTS, ENOUGH = 6, 0.2  # how many products are timed; after so many seconds no more, the first one apart


def choose(precision: Precision, device: torch.device) -> Literal["fp32", "bf16", "fp16"]:
    """What `auto` means on this machine."""
    if precision != "auto":
        return precision
    return "bf16" if _seconds(torch.bfloat16, device) * WORTH_IT < _seconds(torch.float32, device) else "fp32"


def reads_halves(precision: str, offload: str, parallel: str) -> bool:
    """Whether a frozen base can be kept in bfloat16: products read it so, and neither files nor shares hold it."""
    return precision == "bf16" and offload == "none" and parallel != "fsdp"


def warning(precision: str, device: torch.device) -> str | None:
    """What the user should know before waiting: that these numbers are slower here than float32."""
    if precision not in DTYPES:
        return None
    slower = _seconds(DTYPES[precision], device) / _seconds(torch.float32, device)
    if slower < WORTH_IT:
        return None
    return (
        f"train.precision={precision} is {slower:.0f} times slower than fp32 on this {device.type}, which has no "
        "instructions for it, and saves little memory (weights stay float32); use train.precision=fp32"
    )


def computing(precision: str, device: torch.device) -> contextlib.AbstractContextManager:
    """The context in which forward and loss run."""
    if precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=DTYPES[precision])


@functools.cache
def _seconds(dtype: torch.dtype, device: torch.device) -> float:
    """Shortest of a few products of a typical shape; without instructions for it, a single one takes a second."""
    a, b = (torch.ones(shape, dtype=dtype, device=device) for shape in ((2048, 256), (256, 1024)))
    times: list[float] = []
    while len(times) < PRODUCTS and sum(times[1:]) < ENOUGH:
        start = time.perf_counter()
        a @ b
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return min(times)
