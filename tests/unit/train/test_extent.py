"""How far a heap grows: lmcraft.train.extent."""

from __future__ import annotations

from lmcraft.train.extent import SLACK, Heap

BLOCK = 1 << 20


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
