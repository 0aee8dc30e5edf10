"""How far a heap grows: blocks are placed as glibc places them, and the end of the last one is the answer.

A new block takes the smallest hole that is large enough, or the end of the heap; a hole joins its neighbours when its
block has gone. torch wants blocks at multiples of 64 bytes, so glibc looks for SLACK more than it then keeps
(https://sourceware.org/git/?p=glibc.git;a=blob;f=malloc/malloc.c;hb=glibc-2.36, _int_memalign). That is why a
tensor's place is too small for the next of the same size, unless a neighbour has gone too.

Proved by tests/unit/train/test_extent.py and benchmarks/plan_grid.py.
"""

from __future__ import annotations

import bisect

ALIGNED = 64
SLACK = 96
HEADER = 8
SMALLEST = 1024  # bytes; less finds room between the others


class Heap:
    """A heap of which only places and sizes exist.

    Attributes:
        extent: bytes from its start to the farthest end that a block has had.
    """

    def __init__(self) -> None:
        self.extent = 0
        self._top = 0
        self._blocks: dict[int, tuple[int, int]] = {}  # by key: place and size
        self._holes: list[tuple[int, int]] = []  # size and place, the smallest first
        self._sizes: dict[int, int] = {}  # of a hole, by its start
        self._starts: dict[int, int] = {}  # of a hole, by its end

    def take(self, key: int, size: int) -> None:
        """Places a block of so many bytes."""
        if size < SMALLEST:
            return
        kept = -(-(size + HEADER) // ALIGNED) * ALIGNED
        fitting = bisect.bisect_left(self._holes, (kept + SLACK, -1))
        if fitting < len(self._holes):
            whole, place = self._holes[fitting]
            self._close(place)
            self._open(place + kept, whole - kept)
        else:
            place, self._top = self._top, self._top + kept
            self.extent = max(self.extent, self._top + SLACK)
        self._blocks[key] = place, kept

    def give(self, key: int) -> None:
        """Frees the block, if it was placed."""
        if key in self._blocks:
            self._open(*self._blocks.pop(key))

    def _open(self, place: int, size: int) -> None:
        """Makes a hole, joined with those beside it."""
        if place + size in self._sizes:
            size += self._close(place + size)
        if place in self._starts:
            before = self._starts[place]
            size += self._close(before)
            place = before
        if place + size == self._top:
            self._top = place
            return
        self._sizes[place], self._starts[place + size] = size, place
        bisect.insort(self._holes, (size, place))

    def _close(self, place: int) -> int:
        """Takes away the hole that starts there; returns its bytes."""
        size = self._sizes.pop(place)
        del self._starts[place + size]
        del self._holes[bisect.bisect_left(self._holes, (size, place))]
        return size
