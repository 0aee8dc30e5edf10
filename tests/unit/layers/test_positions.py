"""Positions from segments, and the three encodings against their formulas."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lmcraft.layers.positions import positions, rotary_tables, rotate, sinusoids


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 6)), min_size=1, max_size=6))
def test_positions_count_from_the_start_of_each_stretch(stretches):
    """A failure would mean that a packed document sees other positions than the same document alone."""
    layout, expected = [], []
    for number, (_, length) in enumerate(stretches):
        layout += [number % 3] * length  # neighbours differ
        expected += range(length)
    assert positions(torch.tensor([layout, layout])).tolist() == [expected, expected]


def test_branches_go_on_from_their_trunk():
    """A failure would mean that a shared prompt's answers stand elsewhere than in rows of their own."""
    layout = torch.tensor([[1, 1, -1, -1, -2, 2, 2, 2, -1, -1, 0], [1, -1, -2, -3, -3, 0, 0, 0, 0, 0, 0]])
    assert positions(layout).tolist() == [
        [0, 1, 2, 3, 2, 0, 1, 2, 3, 4, 0],
        [0, 1, 1, 1, 2, 0, 1, 2, 3, 4, 5],
    ]


def test_rotation_by_hand():
    """A difference would mean another convention than the public Llama weights have."""
    x_BHTC = torch.randn(1, 2, 3, 4, dtype=torch.float64)
    places = torch.tensor([[0, 5, 1000]])
    found = rotate(x_BHTC, rotary_tables(places, 4, 10000.0))
    for t, place in enumerate(places[0].tolist()):
        for h in range(2):
            for pair in range(2):
                angle = place / 10000 ** (2 * pair / 4)
                a, b = x_BHTC[0, h, t, pair], x_BHTC[0, h, t, pair + 2]
                assert float(found[0, h, t, pair]) == pytest.approx(
                    float(a * math.cos(angle) - b * math.sin(angle)), abs=1e-4
                )
                assert float(found[0, h, t, pair + 2]) == pytest.approx(
                    float(b * math.cos(angle) + a * math.sin(angle)), abs=1e-4
                )


def test_only_distances_matter_under_rotation():
    """A failure would mean that rotary positions are not relative: a shifted text would read differently."""
    torch.manual_seed(0)
    q, k = torch.randn(1, 1, 1, 16), torch.randn(1, 1, 1, 16)

    def score(at_q: int, at_k: int) -> float:
        turned = [
            rotate(x, rotary_tables(torch.tensor([[at]]), 16, 10000.0)) for x, at in ((q, at_q), (k, at_k))
        ]
        return float((turned[0] * turned[1]).sum())

    assert score(7, 3) == pytest.approx(score(1007, 1003), abs=1e-3)
    assert abs(score(7, 3) - score(7, 6)) > 0.1


def test_rotation_keeps_lengths_and_types():
    """A failure would mean that half-precision values become float32 and double the memory."""
    x = torch.randn(2, 3, 5, 8, dtype=torch.bfloat16)
    found = rotate(x, rotary_tables(torch.arange(5).repeat(2, 1), 8, 10000.0))
    assert found.dtype == torch.bfloat16 and found.shape == x.shape
    torch.testing.assert_close(found.float().norm(dim=-1), x.float().norm(dim=-1), rtol=2e-2, atol=0)


@pytest.mark.parametrize("width", [6, 7])
def test_sinusoids_by_hand(width):
    """A difference would mean that the chapter's formula is not what is computed."""
    found = sinusoids(torch.tensor([[0, 3, 50]]), width)
    assert found.shape == (1, 3, width) and found.dtype == torch.float32
    for t, place in enumerate((0, 3, 50)):
        for i in range(width):
            angle = place / 10000 ** ((i // 2 * 2) / width)
            assert float(found[0, t, i]) == pytest.approx(
                math.sin(angle) if i % 2 == 0 else math.cos(angle), abs=1e-5
            )
