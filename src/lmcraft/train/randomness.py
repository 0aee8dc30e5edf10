"""The global random states of torch, NumPy and Python: set, saved and restored together.

lmcraft's own data order and sampling use generators of their own; dropout and plug-ins use these.

Proved by tests/faults/test_kill.py.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from torch import Tensor


def seed(number: int) -> None:
    """Seeds all three (and every accelerator)."""
    random.seed(number)
    np.random.seed(number % 2**32)
    torch.manual_seed(number)


def tensors() -> dict[str, Tensor]:
    """torch's states, one a device."""
    states = {"cpu": torch.get_rng_state()}
    for number in range(torch.cuda.device_count()):
        states[f"cuda{number}"] = torch.cuda.get_rng_state(number)
    return states


def state() -> dict[str, Any]:
    """Python's and NumPy's states as JSON values."""
    version, internal, gauss = random.getstate()
    name, keys, *rest = np.random.get_state()
    return {"python": [version, list(internal), gauss], "numpy": [name, keys.tolist(), *rest]}


def restore(states: dict[str, Tensor], others: dict[str, Any]) -> None:
    """Takes back what `tensors` and `state` gave; devices that are not here are left out."""
    torch.set_rng_state(states["cpu"])
    for number in range(torch.cuda.device_count()):
        if f"cuda{number}" in states:
            torch.cuda.set_rng_state(states[f"cuda{number}"], number)
    version, internal, gauss = others["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, *rest = others["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))
