"""How far the C library's heap grows for given allocations: what is free in pieces too small to be used is overhead.

    best fit:  a request takes the smallest free piece that holds it, and its rest stays free; neighbours that are free
               are joined; where nothing fits, the heap grows at its end

1. glibc's malloc works so for all but small requests (https://sourceware.org/glibc/wiki/MallocInternals), once freed
   memory is kept (lmcraft.core.device.keep_freed_memory). Pages that were touched stay resident, so a process's peak is
   its heap's largest extent, and not the largest sum of live bytes.
2. torch asks for addresses that are multiples of 64; glibc looks for a piece with room to move in, and gives back what is
   over at both ends.
3. Requests up to SMALL bytes come from other lists of the C library and are counted only.

Proved by tests/unit/train/test_heap.py and benchmarks/plan_grid.py.
"""

from __future__ import annotations

from bisect import bisect_left, insort

ALIGNMENT = 64
HEADER = 16
SMALL = 1024


class Heap:
    """Extents in bytes; addresses begin at 0.

    Attributes:
        top: the largest extent so far.
    """

    def __init__(self) -> None:
        self.top = self.end = self.small = 0
        self._used: dict[int, int] = {}  # address → bytes
        self._free: dict[int, int] = {}  # address → bytes
        self._ending: dict[int, int] = {}  # address behind a free piece → its address
        self._sizes: list[tuple[int, int]] = []  # (bytes, address) of the free pieces, sorted

    def take(self, size: int) -> int:
        """Address of `size` bytes; -1 for a small request."""
        if size <= SMALL:
            self.small += size
            return -1
        room = -(-(size + HEADER) // ALIGNMENT) * ALIGNMENT
        place = bisect_left(self._sizes, (room + 2 * ALIGNMENT, 0))
        if place < len(self._sizes):
            free, address = self._sizes[place]
            self._forget(address, free)
            if free > room:
                self._add(address + room, free - room)
        else:
            address = self._ending.get(self.end, self.end)
            if address < self.end:  # the last piece is free, and too small
                self._forget(address, self.end - address)
            self.end = address + room
            self.top = max(self.top, self.end)
        self._used[address] = room
        return address

    def give(self, address: int, size: int) -> None:
        """Frees what `take` gave."""
        if address < 0:
            self.small -= size
            return
        free = self._used.pop(address)
        if address in self._ending:
            before = self._ending[address]
            free += self._free[before]
            self._forget(before, address - before)
            address = before
        if (behind := address + free) in self._free:
            rest = self._free[behind]
            self._forget(behind, rest)
            free += rest
        self._add(address, free)

    def _add(self, address: int, size: int) -> None:
        self._free[address] = size
        self._ending[address + size] = address
        insort(self._sizes, (size, address))

    def _forget(self, address: int, size: int) -> None:
        del self._free[address], self._ending[address + size]
        del self._sizes[bisect_left(self._sizes, (size, address))]
