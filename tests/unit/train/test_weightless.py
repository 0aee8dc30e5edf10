"""Tensors that have a shape and no memory."""

from __future__ import annotations

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor

from lmcraft.train.ledger import Ledger
from lmcraft.train.weightless import Weightless


def test_products_have_shapes_bytes_and_operations_but_no_numbers():
    """A failure would mean that a plan computes for real, or counts other bytes than a run."""
    ledger = Ledger()
    mode = Weightless(ledger)
    model = mode.copy(nn.Linear(8, 4, bias=False))
    with mode:
        y = model(torch.ones(2, 8))
    assert isinstance(y, FakeTensor) and y.shape == (2, 4)
    assert sum(mode.operations.values()) == 2 * 2 * 8 * 4
    assert ledger.live.total() >= y.numel() * 4


def test_what_depends_on_no_weight_is_decided_as_in_a_run():
    """A failure would mean that a plan takes another branch than the run, such as that of padded rows."""
    with Weightless(Ledger()):
        segments = torch.tensor([[1, 1, 2, 0]])
        assert not bool((segments == 1).all()) and int((segments != 0).sum()) == 3


def test_ties_and_what_is_trained_are_kept():
    """A failure would mean that a tied head is planned for twice, or that frozen weights get averages."""
    model = nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 7, bias=False))
    model[1].weight = model[0].weight
    model[0].weight.requires_grad_(False)
    copied = Weightless(Ledger()).copy(model)
    assert copied[0].weight is copied[1].weight and not copied[0].weight.requires_grad
