"""How far a heap grows: lmcraft.train.extent."""

from __future__ import annotations

from lmcraft.train.extent import BUFFER, SHARES, SLACK, Heap, Heaps

BLOCK = 1 << 20
ASKEW = (1 << 19) + 16  # bytes that end 32 past a multiple of 64


def test_a_freed_place_is_too_small_for_the_next_of_its_size() -> None:
    """If this failed, plans would not see what alignment costs, and be a fifth too low."""
    heap = Heap()
    for key in range(3):
        heap.take(key, BLOCK)
    before = heap.extent
    heap.give(1)
    heap.take(3, BLOCK)
    assert heap.extent > before + BLOCK
    heap.take(4, BLOCK - 2 * SLACK)
    assert heap.extent < before + BLOCK + 2 * SLACK


def test_neighbours_that_have_gone_make_one_place() -> None:
    """If this failed, memory that is used again would be planned twice."""
    heap = Heap()
    for key in range(4):
        heap.take(key, BLOCK)
    before = heap.extent
    heap.give(1)
    heap.give(2)
    heap.take(4, 2 * BLOCK - SLACK)
    assert heap.extent == before


def test_the_end_comes_back() -> None:
    """If this failed, a heap would seem to grow with every step."""
    heap = Heap()
    heap.take(0, BLOCK)
    for key in range(1, 100):
        heap.take(key, BLOCK)
        heap.give(key)
    assert heap.extent < 2 * BLOCK + 4 * SLACK


def test_behind_an_unaligned_block_places_are_used_again() -> None:
    """If this failed, plans of checkpointing would be up to a quarter too high."""
    heap = Heap()
    heap.take("buffer", ASKEW, aligned=False)
    for key in range(3):
        heap.take(key, BLOCK)
    before = heap.extent
    heap.give(1)
    heap.take(3, BLOCK)
    assert heap.extent == before


def test_a_small_end_stays_with_its_block() -> None:
    """If this failed, all that follows such a block would lie elsewhere than in glibc's heap."""
    heap = Heap()
    heap.take("buffer", ASKEW, aligned=False)
    heap.take(0, BLOCK)
    heap.take(1, BLOCK)
    (first, kept), (second, _) = heap._blocks[0], heap._blocks[1]
    assert (kept - BLOCK, second - first) == (48, BLOCK + 48 + 80)


def test_the_extent_is_the_mean_over_sizes_of_buffers() -> None:
    """If this failed, a plan would be that of one size of buffer, and off by tens of megabytes on another processor."""
    heaps = Heaps()
    heaps.multiply(1, 0)
    heaps.multiply(1, 0)
    assert abs(heaps.extent - BUFFER * sum(SHARES) / len(SHARES)) < 32
