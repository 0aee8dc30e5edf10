"""How far a heap grows: blocks are placed as glibc places them, and the end of the last one is the answer.

1. A new block takes the smallest hole that is large enough, of several the one that was opened last, or the end of the
   heap; a hole joins its neighbours when its block has gone.
2. torch wants blocks at multiples of 64 bytes. glibc looks for SLACK more, and gives back the ends before and behind
   (https://sourceware.org/git/?p=glibc.git;a=blob;f=malloc/malloc.c;hb=glibc-2.36, _int_memalign). So a tensor's place
   is a little too small for the next of the same size, unless a neighbour has gone.
3. The library that multiplies matrices keeps a buffer, and takes a larger one beside it when a product needs that. It
   is not aligned. Where it ends 32 past a multiple of 64, what follows keeps an end each, and blocks of one size do
   use each other's places.
4. Which of both happens decides about tens of megabytes where blocks of one size come and go, as with checkpointing.
   It hangs on a few bytes, and the same run twice can differ. So the extent is the mean over many sizes of buffer.

Proved by tests/unit/train/test_extent.py and benchmarks/plan_grid.py.
"""

from __future__ import annotations

import bisect
import statistics
from collections.abc import Hashable

ALIGNED, UNIT = 64, 16  # bytes: between places that torch wants, and between those that glibc has
FIRST = 48  # a chunk at 48 past a multiple of ALIGNED has its tensor at one, behind the header
LEAST = 32  # bytes of a hole; a smaller end stays with its block
SLACK = 112  # ALIGNED, LEAST and, because glibc asks itself for it as a user would, a rounded header
HEADER = 8
SMALLEST = 1024  # bytes; less finds room between the others

# Seen with MKL in torch 2.13 on an AMD EPYC, one core: bytes, bytes for each column of the product, and bytes more
# where sums run over more than so many numbers. Other processors may have others; hence SHARES of it.
BUFFER, BUFFER_COLUMN, BUFFER_DEEP, DEEP = 410_272, 512, 262_144, 256
SHARES = (0.25, 0.4, 0.55, 0.7, 0.85, 1.0, 1.15, 1.3, 1.5, 1.75, 2.0)


class Heaps:
    """The same blocks in several heaps, each with another size of buffer for products."""

    def __init__(self) -> None:
        self._heaps = {share: Heap() for share in SHARES}
        self._buffer = 0

    @property
    def extent(self) -> float:
        """The mean of theirs."""
        return statistics.mean(heap.extent for heap in self._heaps.values())

    def take(self, key: int, size: int) -> None:
        """Places a tensor of so many bytes."""
        for heap in self._heaps.values():
            heap.take(key, size)

    def give(self, key: int) -> None:
        """Frees the tensor, if it was placed."""
        for heap in self._heaps.values():
            heap.give(key)

    def multiply(self, depth: int, columns: int) -> None:
        """Places a buffer for products with a matrix [depth, columns], if those that are there are too small."""
        needed = BUFFER + BUFFER_COLUMN * columns + (BUFFER_DEEP if depth > DEEP else 0)
        if needed > self._buffer:
            self._buffer = needed
            for share, heap in self._heaps.items():
                heap.take(("buffer", needed), int(share * needed), aligned=False)


class Heap:
    """A heap of which only places and sizes exist.

    Attributes:
        extent: bytes from its start to the farthest end that a block has had.
    """

    def __init__(self) -> None:
        self.extent = 0
        self._top = 0
        self._blocks: dict[Hashable, tuple[int, int]] = {}  # by key: place and size
        self._holes: list[tuple[int, int, int]] = []  # size, minus its number, and place
        self._sizes: dict[int, tuple[int, int]] = {}  # of a hole, by its start: size and minus its number
        self._starts: dict[int, int] = {}  # of a hole, by its end
        self._opened = 0

    def take(self, key: Hashable, size: int, aligned: bool = True) -> None:
        """Places a block of so many bytes; torch's are aligned."""
        if size < SMALLEST:
            return
        kept = -(-(size + HEADER) // UNIT) * UNIT
        asked = kept + SLACK if aligned else kept
        found, end = self._found(asked)
        lead = (FIRST - found) % ALIGNED if aligned else 0
        place = found + lead + (ALIGNED if 0 < lead < LEAST else 0)
        if end - place - kept <= LEAST:
            kept = end - place
        self._blocks[key] = place, kept
        self._open(place + kept, end - place - kept)
        self._open(found, place - found)

    def _found(self, asked: int) -> tuple[int, int]:
        """Start and end of so much room; what is left of the hole is a hole again, if it can be one."""
        fitting = bisect.bisect_left(self._holes, (asked,))
        if fitting == len(self._holes):
            found, self._top = self._top, self._top + asked
            self.extent = max(self.extent, self._top)
            return found, self._top
        whole, _, found = self._holes[fitting]
        self._close(found)
        if whole - asked < LEAST:
            return found, found + whole
        self._open(found + asked, whole - asked)
        return found, found + asked

    def give(self, key: Hashable) -> None:
        """Frees the block, if it was placed."""
        if key in self._blocks:
            self._open(*self._blocks.pop(key))

    def _open(self, place: int, size: int) -> None:
        """Makes a hole, joined with those beside it."""
        if not size:
            return
        if place + size in self._sizes:
            size += self._close(place + size)
        if place in self._starts:
            before = self._starts[place]
            size += self._close(before)
            place = before
        if place + size == self._top:
            self._top = place
            return
        self._opened += 1
        self._sizes[place], self._starts[place + size] = (size, -self._opened), place
        bisect.insort(self._holes, (size, -self._opened, place))

    def _close(self, place: int) -> int:
        """Takes away the hole that starts there; returns its bytes."""
        size, number = self._sizes.pop(place)
        del self._starts[place + size]
        del self._holes[bisect.bisect_left(self._holes, (size, number, place))]
        return size
