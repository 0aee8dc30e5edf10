"""Who sees whom, and attention against loops."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lmcraft.layers.attention import Attention, sight, visible

layouts = st.lists(st.integers(0, 3), min_size=1, max_size=12)


@given(st.lists(layouts, min_size=1, max_size=3), st.one_of(st.none(), st.integers(1, 14)))
def test_visible_equals_its_definition(rows, window):
    """A failure would mean that a position sees the future, another document, or not its own."""
    longest = max(map(len, rows))
    segments_BT = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
    found = visible(segments_BT, window)
    for b in range(len(rows)):
        for t in range(longest):
            expected = [
                m <= t and segments_BT[b, m] == segments_BT[b, t] and (window is None or t - m < window)
                for m in range(longest)
            ]
            if found is not None:
                assert found[b, 0, t].tolist() == expected
            elif segments_BT[b, t] != 0:  # plain causal order: real positions see what they should
                assert [m <= t for m in range(longest)] == expected


@pytest.mark.parametrize("window", [None, 3])
def test_branches_see_their_trunk_and_themselves(window):
    """A failure would mean that answers to one prompt read one another."""
    layout = [1, 1, -1, -1, -2, 2, 2, 2, -1, -1, 0]
    found = visible(torch.tensor([layout]), window)
    trunks = [1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 0]
    places = [0, 1, 2, 3, 2, 0, 1, 2, 3, 4, 0]
    for t, own in enumerate(layout):
        expected = [
            m <= t and other in (own, trunks[t]) and trunks[m] == trunks[t]
            and (window is None or places[t] - places[m] < window)
            for m, other in enumerate(layout)
        ]  # fmt: skip
        assert found[0, 0, t].tolist() == expected


@given(st.lists(layouts, min_size=1, max_size=3), st.one_of(st.none(), st.integers(1, 14)))
def test_every_position_sees_itself(rows, window):
    """A failure would mean a softmax over nothing, and NaN in every weight."""
    longest = max(map(len, rows))
    found = visible(torch.tensor([row + [0] * (longest - len(row)) for row in rows]), window)
    assert found is None or found[:, 0].diagonal(dim1=-2, dim2=-1).all()


@pytest.mark.parametrize("heads,kv_heads,qk_norm", [(4, 4, False), (4, 2, False), (4, 1, True)])
@pytest.mark.parametrize("layout", [[1] * 7, [1, 1, 1, 2, 2, 0, 0]])
def test_attention_by_hand(heads, kv_heads, qk_norm, layout):
    """A difference would mean a wrong scale, wrong sharing of key heads, or attention across documents (trap 25)."""
    torch.manual_seed(0)
    width, head_width, rotary = 16, 6, (6, 10000.0)
    layer = Attention(
        width, heads, kv_heads, head_width, bias=True, out_bias=True, qk_norm_eps=1e-6 if qk_norm else None
    )
    layer = layer.double()
    segments_BT = torch.tensor([layout])
    seen = sight(segments_BT, segments_BT, None, None, rotary)
    x = torch.randn(1, len(layout), width, dtype=torch.float64)
    found = layer(x, seen, None, 0)

    def heads_of(linear, count):
        return linear(x)[0].view(len(layout), count, head_width)

    def prepared(vector, norm, place):
        if norm is not None:
            vector = vector / (vector.square().mean() + 1e-6).sqrt() * norm.weight
        angles = place / 10000.0 ** (torch.arange(0, head_width, 2, dtype=torch.float64) / head_width)
        a, b = vector.chunk(2)
        return torch.cat((a * angles.cos() - b * angles.sin(), b * angles.cos() + a * angles.sin()))

    q, k, v = heads_of(layer.q, heads), heads_of(layer.k, kv_heads), heads_of(layer.v, kv_heads)
    places = seen.positions_BT[0].tolist()
    rows = []
    for t in range(len(layout)):
        outs = []
        for h in range(heads):
            g = h // (heads // kv_heads)
            who = [m for m in range(t + 1) if layout[m] == layout[t]]
            query = prepared(q[t, h], layer.q_norm, places[t])
            scores = torch.stack(
                [query @ prepared(k[m, g], layer.k_norm, places[m]) for m in who]
            ) / math.sqrt(head_width)
            outs.append((scores.softmax(0)[:, None] * torch.stack([v[m, g] for m in who])).sum(0))
        rows.append(layer.out(torch.cat(outs)))
    torch.testing.assert_close(found[0], torch.stack(rows), rtol=1e-4, atol=1e-5)


def test_plain_order_needs_no_mask():
    """A mask there would cost memory in the square of the length for nothing."""
    assert visible(torch.ones(2, 9, dtype=torch.long), None) is None
    assert visible(torch.tensor([[1, 1, 1, 0, 0]]), None) is None
    assert visible(torch.tensor([[0, 1, 1]]), None) is not None
    assert visible(torch.tensor([[1, 1, 2]]), None) is not None
    assert visible(torch.ones(2, 9, dtype=torch.long), 9) is None
    assert visible(torch.ones(2, 9, dtype=torch.long), 8) is not None
