"""What a model remembers: slots by position, ragged rows, room, and forgetting."""

from __future__ import annotations

import pytest
import torch

from lmcraft.layers.memory import KeyValues, State


def memory(rows=2, length=6) -> KeyValues:
    return KeyValues(layers=1, rows=rows, heads=1, length=length, head_width=1, like=torch.zeros(1))


def put(kept: KeyValues, values_BT: list[list[float]], counts: list[int]) -> torch.Tensor:
    """Writes values and returns what a query would see, [B, M]."""
    new = torch.tensor(values_BT)[:, None, :, None]
    places = kept.place(new.shape[2])
    keys, _ = kept.write(0, new, new * 10, places)
    kept.advance(torch.tensor(counts))
    return keys[:, 0, :, 0]


def test_padding_is_overwritten_by_the_next_token():
    """A failure would mean that a short prompt remembers padding as if somebody had said it."""
    kept = memory()
    put(kept, [[1, 2, 3], [4, -9, -9]], [3, 1])
    assert kept.place(1).tolist() == [[3], [1]]
    seen = put(kept, [[5], [6]], [1, 1])
    assert seen.tolist() == [[1, 2, 3, 5], [4, 6, -9, 0]]
    assert kept.values_LBKMC[0, :, 0, :, 0].tolist() == [[10, 20, 30, 50, 0, 0], [40, 60, -90, 0, 0, 0]]
    assert kept.lengths_B.tolist() == [4, 2] and kept.longest == 4


def test_too_much_is_an_error_of_ours():
    """A failure would mean that tokens are written over each other, or beyond the memory."""
    kept = memory(length=3)
    put(kept, [[1, 2], [1, 2]], [2, 2])
    with pytest.raises(ValueError, match="holds 3 positions, 4 are needed"):
        kept.place(2)
    assert kept.capacity == 3


def test_kept_rows_keep_their_content_and_order():
    """A failure would mean that requests get each other's past."""
    kept = memory(rows=3)
    put(kept, [[1, 2], [3, 0], [5, 6]], [2, 1, 2])
    kept.keep([2, 0])
    assert kept.keys_LBKMC[0, :, 0, :2, 0].tolist() == [[5, 6], [1, 2]]
    assert kept.lengths_B.tolist() == [2, 2]
    kept.keep([1])
    assert put(kept, [[9]], [1]).tolist() == [[1, 2, 9]]
    kept.keep([])
    assert kept.longest == 0


@pytest.mark.parametrize(
    "rows", [[0, 1], [0, 3], [3], [3, 1], [3, 2], [3, 3], [1, 0], [0, 1, 3], [2, 1, 0], [0, 0, 1, 2]], ids=str
)
def test_rows_that_move_up_take_their_past_along(rows):
    """A failure would mean that an answer goes on from what another request said, once one of the batch is done."""
    kept = memory(rows=4)
    past = [[1, 2, 3], [4, 5, 6], [7, 8, 9], [10, 11, 12]]
    put(kept, past, [3, 3, 3, 3])
    kept.keep(rows)
    assert put(kept, [[20 + row] for row in rows], [1] * len(rows)).tolist() == [
        [*past[row], 20 + row] for row in rows
    ]
    assert kept.values_LBKMC[0, :, 0, 0, 0].tolist() == [past[row][0] * 10 for row in rows]


def test_only_the_rows_that_move_are_copied():
    """A failure would mean that the whole memory is copied whenever one answer ends."""
    kept = memory(rows=4)
    put(kept, [[1], [2], [3], [4]], [1, 1, 1, 1])
    before = kept.keys_LBKMC.data_ptr()
    kept.keep([0, 3])
    assert kept.keys_LBKMC.data_ptr() == before
    kept.keep([1, 0])
    assert kept.keys_LBKMC.data_ptr() != before and kept.keys_LBKMC[0, :, 0, 0, 0].tolist() == [4, 1]


def test_forgetting_the_longest_row_makes_room():
    """A failure would mean that one long request slows down all that outlive it."""
    kept = memory(rows=2)
    put(kept, [[1, 2, 3, 4], [5, 0, 0, 0]], [4, 1])
    kept.keep([1])
    assert kept.longest == 1 and put(kept, [[7]], [1]).tolist() == [[5, 7]]


@pytest.mark.parametrize("lengths", [(6, 9), (9, 6)])
def test_joined_rows_go_on_with_their_own_past(lengths):
    """A failure would mean that a request which begins later reads what another one said."""
    first, second = memory(rows=2, length=lengths[0]), memory(rows=1, length=lengths[1])
    put(first, [[1, 2, 3], [4, 0, 0]], [3, 1])
    put(second, [[5, 6, 7, 8]], [4])
    first.join(second)
    assert first.capacity == 9 and first.longest == 4 and first.lengths_B.tolist() == [3, 1, 4]
    assert put(first, [[10], [11], [12]], [1, 1, 1]).tolist() == [
        [1, 2, 3, 10, 0],
        [4, 11, 0, 0, 0],
        [5, 6, 7, 8, 12],
    ]


@pytest.mark.parametrize("parts", [1, 2])
def test_recurrent_state_keeps_rows(parts):
    """A failure would mean that requests get each other's state."""
    state = State(layers=2, rows=3, width=2, parts=parts, like=torch.zeros(1))
    state.layers = [tuple(torch.arange(6.0).view(3, 2) + n for n in range(parts)) for _ in range(2)]
    state.keep([2, 0])
    for layer in state.layers:
        assert len(layer) == parts
        for n, part in enumerate(layer):
            assert part.tolist() == [[4 + n, 5 + n], [n, 1 + n]]
