"""Models are told apart by a few numbers of each tensor."""

from __future__ import annotations

import torch

from lmcraft.models.model import fingerprint


def test_another_weight_name_or_shape_is_another_model():
    """A failure would mean that an adapter is put beside the wrong base, or a run resumed on another one."""
    weight = torch.arange(6.0).view(2, 3)
    known = fingerprint([("a", weight)])
    assert fingerprint([("a", weight.clone())]) == known
    assert known not in {
        fingerprint([("b", weight)]), fingerprint([("a", weight.view(3, 2))]), fingerprint([("a", weight + 1)]),
        fingerprint([("a", weight), ("b", weight)]),
    }  # fmt: skip


def test_the_last_number_of_a_large_tensor_can_be_named():
    """A failure would mean that a vocabulary of 49,152 words × 576 ends in an error: float32 places are rounded up."""
    large = torch.zeros(49152 * 576, dtype=torch.uint8)
    before = fingerprint([("embedding", large)])
    large[-1] = 1
    assert fingerprint([("embedding", large)]) != before
    assert fingerprint([("empty", torch.zeros(0)), ("one", torch.ones(()))])
