"""Additive attention: weights over the real source, none over nothing, and the record of them."""

from __future__ import annotations

import torch

from lmcraft.layers.additive import AdditiveAttention, AttentiveRecurrent


def attended(layer: AttentiveRecurrent, real_BS: torch.Tensor, seed: int = 1):
    torch.manual_seed(seed)
    source_BSE = torch.randn(*real_BS.shape, 6)
    return source_BSE, layer.attention.prepare(source_BSE, real_BS)


def make() -> AttentiveRecurrent:
    torch.manual_seed(0)
    return AttentiveRecurrent(4, "lstm", source_width=6, attention_width=5)


REAL_BS = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [0, 0, 0, 0, 0], [0, 1, 0, 1, 0]]).bool()


def test_weights_are_shared_out_over_the_real_source():
    """A failure would mean that part of the attention falls on padding, or that nothing to see gives NaN."""
    layer = make()
    layer.attention.record = []
    _, source = attended(layer, REAL_BS)
    start = (torch.randn(4, 4), torch.randn(4, 4))
    parts, context_BTE = layer.states(torch.randn(4, 3, 4), start, source)
    (weights_B1TS,) = layer.attention.record
    assert weights_B1TS.shape == (4, 1, 3, 5) and weights_B1TS.dtype == torch.float32
    assert not weights_B1TS.requires_grad
    for b, real_S in enumerate(REAL_BS):
        weights_TS = weights_B1TS[b, 0]
        assert (weights_TS[:, ~real_S] == 0).all()
        assert (weights_TS[:, real_S] > 0).all()
        expected = torch.ones(3) if real_S.any() else torch.zeros(3)
        torch.testing.assert_close(weights_TS.sum(dim=-1), expected)
    assert (context_BTE[2] == 0).all() and all(part.isfinite().all() for part in parts)


def test_contexts_are_the_weighted_source():
    """A failure would mean that the picture of the alignment does not show what the decoder read."""
    layer = make()
    layer.attention.record = []
    source_BSE, source = attended(layer, REAL_BS)
    start = (torch.randn(4, 4), torch.randn(4, 4))
    _, context_BTE = layer.states(torch.randn(4, 3, 4), start, source)
    torch.testing.assert_close(context_BTE, layer.attention.record[0][:, 0] @ source_BSE)


def test_what_stands_in_the_padding_does_not_matter():
    """A failure would mean that a translation depends on how long the longest sentence of its batch is."""
    layer = make()
    source_BSE, source = attended(layer, REAL_BS)
    other_BSE = torch.where(REAL_BS[..., None], source_BSE, 1e6)
    torch.manual_seed(2)
    x_BTD, start = torch.randn(4, 3, 4), (torch.randn(4, 4), torch.randn(4, 4))
    expected, context_BTE = layer.states(x_BTD, start, source)
    found, other_BTE = layer.states(x_BTD, start, layer.attention.prepare(other_BSE, REAL_BS))
    assert torch.equal(context_BTE, other_BTE) and torch.equal(found[0], expected[0])


def test_a_position_that_fits_gets_the_weight():
    """A failure would mean that the weights do not follow the scores."""
    attention = AdditiveAttention(1, 1, 1)
    with torch.no_grad():
        for parameter, value in zip(attention.parameters(), (1.0, 0.0, 1.0, 50.0), strict=True):
            parameter.fill_(value)
    source_BSE = torch.tensor([[[-1.0], [2.0], [-1.0]]])
    context_BE, weights_BS = attention(
        torch.zeros(1, 1), attention.prepare(source_BSE, torch.ones(1, 3).bool())
    )
    torch.testing.assert_close(weights_BS, torch.tensor([[0.0, 1.0, 0.0]]))
    torch.testing.assert_close(context_BE, torch.tensor([[2.0]]))


def test_nothing_is_recorded_unless_asked():
    """A failure would mean that training keeps all weights of all steps until memory ends."""
    layer = make()
    _, source = attended(layer, REAL_BS)
    layer.states(torch.randn(4, 3, 4), (torch.randn(4, 4), torch.randn(4, 4)), source)
    assert layer.attention.record is None
