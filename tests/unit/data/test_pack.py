"""Best-fit packing: nothing lost, nothing doubled, no row too long, and close to as few rows as possible."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lmcraft.data.pack import Piece, best_fit, one_a_row, pieces

lengths_lists = st.lists(st.integers(0, 60), max_size=60)


def packed(lengths: list[int], width: int) -> list[list[Piece]]:
    return best_fit(pieces(np.array(lengths, dtype=np.int64), width), width)


@given(lengths_lists, st.integers(1, 40))
def test_every_id_but_the_first_is_predicted_exactly_once(lengths, width):
    """A failure would mean that some training tokens are dropped or count twice, without any message."""
    predicted = [
        (piece.document, target)
        for row in packed(lengths, width)
        for piece in row
        for target in range(piece.start + 1, piece.stop + 1)
    ]
    assert sorted(predicted) == [(d, t) for d, length in enumerate(lengths) for t in range(1, length)]


@given(lengths_lists, st.integers(1, 40))
def test_rows_never_exceed_the_width(lengths, width):
    """A failure would mean a row that the batch cannot hold."""
    for row in packed(lengths, width):
        assert row
        assert 0 < sum(piece.stop - piece.start for piece in row) <= width
        assert all(piece.stop > piece.start for piece in row)


@given(lengths_lists, st.integers(1, 40))
def test_result_depends_on_lengths_alone(lengths, width):
    """A failure would mean that a resumed run trains on other rows than it began with."""
    assert packed(lengths, width) == packed(list(lengths), width)


@given(lengths_lists, st.integers(1, 40))
def test_equals_a_plain_search_for_the_fullest_row(lengths, width):
    """A failure would mean that the bit mask finds another row than best fit asks for."""
    parts = pieces(np.array(lengths, dtype=np.int64), width)
    sizes = sorted((p.stop - p.start for p in parts), reverse=True)
    spaces: list[int] = []
    for size in sizes:
        fitting = [space for space in spaces if space >= size]
        if fitting:
            spaces.remove(min(fitting))
            spaces.append(min(fitting) - size)
        else:
            spaces.append(width - size)
    found = [width - sum(p.stop - p.start for p in row) for row in best_fit(parts, width)]
    assert sorted(found) == sorted(spaces)


@given(lengths_lists, st.integers(1, 40))
def test_at_most_one_row_is_less_than_half_full(lengths, width):
    """A failure would mean that packing wastes computation: two such rows fit into one."""
    fills = [sum(piece.stop - piece.start for piece in row) for row in packed(lengths, width)]
    assert sum(2 * fill <= width for fill in fills) <= 1


def test_long_documents_are_cut_at_the_width():
    """A failure would mean that the cut loses or repeats a target."""
    assert pieces(np.array([8, 1, 0, 2]), 3) == [(0, 0, 3), (0, 3, 6), (0, 6, 7), (3, 0, 1)]


def test_one_a_row_does_not_pack():
    """A failure would mean that `data.pack=false` still mixes documents."""
    parts = pieces(np.array([4, 4, 4]), 16)
    assert one_a_row(parts) == [[part] for part in parts]
