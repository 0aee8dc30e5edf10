"""The global random states of torch, NumPy and Python: set, saved and restored together.

lmcraft's own data order and sampling use generators of their own; dropout and plug-ins use these.

Proved by tests/faults/test_kill.py and tests/parallel/.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .parallel import Ranks


def seed(number: int) -> None:
    """Seeds all three (and every accelerator)."""
    random.seed(number)
    np.random.seed(number % 2**32)
    torch.manual_seed(number)


def tensors() -> dict[str, Tensor]:
    """torch's states, one a device."""
    states = {"cpu": torch.get_rng_state()}
    for number, place in enumerate(_devices()):
        states[f"cuda{number}"] = torch.cuda.get_rng_state(place)
    return states


def _devices() -> list[int]:
    """The accelerators of this process; under torchrun the others belong to other processes."""
    if "LOCAL_RANK" in os.environ and torch.cuda.is_available():
        return [torch.cuda.current_device()]
    return [*range(torch.cuda.device_count())]


def state() -> dict[str, Any]:
    """Python's and NumPy's states as JSON values."""
    version, internal, gauss = random.getstate()
    name, keys, *rest = np.random.get_state()
    return {"python": [version, list(internal), gauss], "numpy": [name, keys.tolist(), *rest]}


def everywhere(ranks: Ranks) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """`tensors` and `state` of all processes; those of process r > 0 under the prefix `r.` and in `others`."""
    named = {}
    for name, tensor in tensors().items():
        for rank, content in enumerate(ranks.exchange(tensor.numpy().tobytes())):
            box = torch.frombuffer(bytearray(content), dtype=torch.uint8)
            named[f"{rank}.{name}" if rank else name] = box
    first, *others = map(json.loads, ranks.exchange(json.dumps(state()).encode()))
    return named, {**first, "others": others} if others else first


def restore(states: Mapping[str, Tensor], others: dict[str, Any], rank: int = 0) -> bool:
    """Takes back what `everywhere` gave, as far as it is of this process; devices that are not here are left out.

    False if nothing is: there were fewer processes.
    """
    before = f"{rank}." if rank else ""
    if f"{before}cpu" not in states:
        return False
    others = others["others"][rank - 1] if rank else others
    torch.set_rng_state(states[f"{before}cpu"])
    for number, place in enumerate(_devices()):
        if f"{before}cuda{number}" in states:
            torch.cuda.set_rng_state(states[f"{before}cuda{number}"], place)
    version, internal, gauss = others["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, *rest = others["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))
    return True
