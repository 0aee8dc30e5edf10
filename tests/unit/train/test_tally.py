"""Means over a step, whatever its micro-batches."""

from __future__ import annotations

import pytest
import torch

from lmcraft.train.tally import Tally


def test_a_mean_is_over_all_numbers_and_not_over_their_parts():
    """A failure would mean that a micro-batch of one token counts as much as one of a thousand."""
    tally = Tally()
    tally.add(loss=torch.tensor([1.0, 2.0, 6.0]), right=torch.tensor([True, False]))
    tally.add(loss=torch.tensor([[11.0]]), right=torch.zeros(0, dtype=torch.bool))
    assert tally.told() == pytest.approx({"loss": 5.0, "right": 0.5})


def test_what_was_told_is_forgotten():
    """A failure would mean that the log of a step is about all steps before it."""
    tally = Tally()
    tally.add(loss=torch.ones(3, requires_grad=True))
    assert tally.told() == {"loss": 1.0} and tally.told() == {}
    tally.add(loss=torch.zeros(0))
    assert tally.told() == {}
