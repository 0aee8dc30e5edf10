"""Pooling: the vector of each document, whatever else stands in its row."""

from __future__ import annotations

import pytest
import torch

from lmcraft.layers.pooling import pool

SEGMENTS = torch.tensor([[1, 1, 1, 2, 2, 0], [0, 1, 2, 2, 2, 3]])


@pytest.mark.parametrize("how", ["mean", "cls", "last"])
def test_each_document_has_its_own_vector(how):
    """A difference would mean that a text's class depends on padding or on the texts beside it."""
    hidden_BTD = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = pool(hidden_BTD, SEGMENTS, how)
    for b in range(2):
        for number in {*SEGMENTS[b].tolist()} - {0}:
            inside = SEGMENTS[b] == number
            own = hidden_BTD[b, inside]
            expected = {"mean": own.mean(dim=0), "cls": own[0], "last": own[-1]}[how]
            torch.testing.assert_close(found[b, inside], expected.expand(int(inside.sum()), 3))


@pytest.mark.parametrize("how", ["mean", "cls", "last"])
def test_no_segments_means_one_document(how):
    """A difference would mean that a text alone is another text than the same in a batch."""
    hidden_BTD = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(1))
    ones_BT = torch.ones(2, 5, dtype=torch.long)
    assert torch.equal(pool(hidden_BTD, None, how), pool(hidden_BTD, ones_BT, how))
