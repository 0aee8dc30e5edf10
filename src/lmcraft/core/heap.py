"""The C library's heap, set up for training: freed blocks are kept, and small objects stay out of their way.

Training allocates and frees the same activations every step, all in one process. What glibc (seen with 2.36) makes of
that by default:

1. It maps each large block anew, so every step pays page faults for all of its memory. So thresholds are raised.
2. torch asks for blocks at multiples of 64. For that glibc takes a larger block and gives back its two ends, 32 to 96
   bytes each. Small objects move in there, and when the tensor has gone, its place is a little too small for the next
   one of the same size. Peaks were a third to two times above what was alive.

Three things together make an end of it: ends are joined to their neighbours at once instead of being kept for later
(no fast bins, no cache of a thread), and small objects find room elsewhere: many small free blocks, which lie apart
and are older, are taken first. The cache of a thread can be turned off only before a process starts (`restart`).

Proved by tests/unit/core/test_heap.py and benchmarks/plan_grid.py.
"""

from __future__ import annotations

import ctypes
import functools
import os
import platform
import sys

VARIABLE = "GLIBC_TUNABLES"
TUNABLE = "glibc.malloc.tcache_count"
# Small blocks kept free: of each of these sizes in bytes so many; about 15 MB with what separates them.
SIZES = range(32, 257, 16)
OF_EACH = 5000
_HEADER = 8  # bytes of a block that are not for its user

_FAST_BINS, _TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = 1, -1, -2, -3  # mallopt(3)
_MEBIBYTE = 1 << 20
SETTINGS = (
    (_MMAP_THRESHOLD, 1024 * _MEBIBYTE),
    (_TRIM_THRESHOLD, 2048 * _MEBIBYTE - 1),
    (_TOP_PAD, 64 * _MEBIBYTE),
    (_FAST_BINS, 0),
)


def restart() -> None:
    """Starts this program anew, once, without a thread's cache of freed blocks; does not return where it did.

    Where there is no glibc, or the user has set its malloc already, nothing happens.
    """
    given = os.environ.get(VARIABLE, "")
    if platform.libc_ver()[0] != "glibc" or "glibc.malloc" in given or not sys.orig_argv[1:]:
        return
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | without_cache())


def without_cache() -> dict[str, str]:
    """The environment variable that a process needs from its start."""
    given = os.environ.get(VARIABLE)
    return {VARIABLE: f"{given}:{TUNABLE}=0" if given else f"{TUNABLE}=0"}


@functools.cache
def keep_freed_memory() -> bool:
    """Sets up the heap of this process for training; true where that took effect."""
    try:
        libc = ctypes.CDLL("libc.so.6")
        accepted = [libc.mallopt(option, value) == 1 for option, value in SETTINGS]
    except (OSError, AttributeError):  # macOS, or a Linux with another C library
        return False
    _room_for_small_objects(libc)
    return all(accepted)


def _room_for_small_objects(libc: ctypes.CDLL) -> None:
    """Frees every second of many small blocks; those in between stay, so the free ones are not joined."""
    malloc, free = libc.malloc, libc.free
    malloc.argtypes, malloc.restype, free.argtypes = [ctypes.c_size_t], ctypes.c_void_p, [ctypes.c_void_p]
    room = []
    for size in SIZES:
        for _ in range(OF_EACH):
            room.append(malloc(size - _HEADER))
            malloc(1)
    for block in room:
        free(block)
