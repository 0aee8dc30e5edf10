"""Our recurrent layers against `torch.nn.RNN` and `torch.nn.LSTM`."""

from __future__ import annotations

import pytest
import torch

from lmcraft.layers.recurrent import Recurrent


@pytest.mark.parametrize("cell", ["rnn", "lstm"])
def test_equals_torch(cell):
    """A difference would mean that the gates are not those of the literature."""
    torch.manual_seed(0)
    ours = Recurrent(24, cell)
    theirs = {"rnn": torch.nn.RNN, "lstm": torch.nn.LSTM}[cell](24, 24, batch_first=True)
    theirs.weight_ih_l0.data.copy_(ours.input.weight.data)
    theirs.bias_ih_l0.data.copy_(ours.input.bias.data)
    theirs.weight_hh_l0.data.copy_(ours.hidden.weight.data)
    theirs.bias_hh_l0.data.zero_()
    x_BTD = torch.randn(3, 40, 24)
    start = tuple(torch.randn(3, 24) for _ in range(ours.parts))
    found, state = ours(x_BTD, start, None)
    given = tuple(part[None] for part in start)
    expected, final = theirs(x_BTD, given if cell == "lstm" else given[0])
    assert (found - expected).abs().max() < 1e-6
    final = final if cell == "lstm" else (final,)
    for ours_part, theirs_part in zip(state, final, strict=True):
        assert (ours_part - theirs_part[0]).abs().max() < 1e-6


@pytest.mark.parametrize("cell", ["rnn", "lstm"])
def test_gradients_equal_torch(cell):
    """A difference would mean that training through time is not what it says."""
    torch.manual_seed(1)
    ours = Recurrent(8, cell)
    theirs = {"rnn": torch.nn.RNN, "lstm": torch.nn.LSTM}[cell](8, 8, batch_first=True)
    theirs.weight_ih_l0.data.copy_(ours.input.weight.data)
    theirs.bias_ih_l0.data.copy_(ours.input.bias.data)
    theirs.weight_hh_l0.data.copy_(ours.hidden.weight.data)
    theirs.bias_hh_l0.data.zero_()
    x_BTD = torch.randn(2, 15, 8)
    zero = tuple(torch.zeros(2, 8) for _ in range(ours.parts))
    ours(x_BTD, zero, None)[0].square().sum().backward()
    theirs(x_BTD)[0].square().sum().backward()
    for mine, other in ((ours.input.weight, theirs.weight_ih_l0), (ours.hidden.weight, theirs.weight_hh_l0)):
        assert (mine.grad - other.grad).abs().max() < 1e-5 * other.grad.abs().max()
