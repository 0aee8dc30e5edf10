"""What this machine offers: cores, memory, accelerators, and where lmcraft keeps its files.

Containers are taken into account: a CPU quota or memory limit of a control group counts, not what the host has.
torch is imported only where it is asked for.

Proved by tests/unit/core/test_device.py.
"""

from __future__ import annotations

import math
import os
import resource
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import UserError

if TYPE_CHECKING:
    import torch

_CGROUP = Path("/sys/fs/cgroup")


def home() -> Path:
    """The directory of the local store and caches: LMCRAFT_HOME, or ~/.cache/lmcraft."""
    given = os.environ.get("LMCRAFT_HOME")
    return Path(given).expanduser() if given else Path.home() / ".cache" / "lmcraft"


def threads() -> int:
    """How many CPU cores this process may use: OMP_NUM_THREADS if set, else affinity and the container's quota."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    if asked.isdecimal() and int(asked) > 0:
        return int(asked)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota, _, period = _cgroup("cpu.max").partition(" ")
    if quota.isdecimal() and period.isdecimal() and int(period) > 0:
        cores = min(cores, math.ceil(int(quota) / int(period)))
    return max(1, cores)


def memory_bytes() -> int:
    """Main memory this process may use: the machine's, or the container's limit if that is smaller."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = _cgroup("memory.max")
    return min(total, int(limit)) if limit.isdecimal() else total


def peak_memory_bytes() -> int:
    """The largest resident memory of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts kibibytes, macOS bytes


def memory_now_bytes() -> int | None:
    """The resident memory of this process; None where the system does not tell."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return None


def device(name: str = "auto") -> torch.device:
    """The torch device of a name: "cpu", "cuda", "cuda:1", "mps", or "auto" for the best that is here.

    Raises:
        UserError: the name is not a device, or this machine has none of the kind.
    """
    import torch

    if name == "auto":
        kind = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        return torch.device(kind)
    try:
        chosen = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"{name!r} is not a device", why="valid: auto, cpu, cuda, cuda:N, mps") from error
    missing = {
        "cuda": chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count(),
        "mps": chosen.type == "mps" and not torch.backends.mps.is_available(),
    }
    if missing.get(chosen.type):
        raise UserError(
            f"this machine has no device {name!r}",
            fix="use device=auto, or see what is here with: lmcraft doctor",
        )
    return chosen


def _cgroup(name: str) -> str:
    try:
        return (_CGROUP / name).read_text().strip()
    except OSError:
        return ""
