"""The reference: frozen, without dropout, no part of what is trained; with adapters, the base itself."""

from __future__ import annotations

import pytest
import torch

from lmcraft.adapt import adapter, entries, lora
from lmcraft.core.errors import UserError
from lmcraft.models import decoder
from lmcraft.models import model as models
from lmcraft.train.reference import Reference


def net():
    torch.manual_seed(0)
    shape = decoder.Config(vocab=11, layers=1, width=16, heads=2, context=8, dropout=0.3, tied=True)
    return models.build(shape).train()


TOKENS_BT = torch.arange(8)[None]


def test_a_copy_never_changes_and_is_not_trained():
    """A failure would mean that the policy is compared with a reference that runs after it (checklist 17)."""
    policy = net()
    names, reference = set(policy.state_dict()), Reference(policy, beside=False)
    before, first = reference.fingerprint, net().eval()(TOKENS_BT)
    for _ in range(3):
        with torch.no_grad():
            for parameter in policy.parameters():
                parameter.add_(1.0)
        with reference.of(policy) as kept:
            assert torch.equal(kept(TOKENS_BT), first)  # dropout is off, twice the same
    assert reference.fingerprint == before and set(policy.state_dict()) == names
    assert policy.training and not any(p.requires_grad for p in reference.copy.parameters())
    assert reference.copy.embedding.weight is not policy.embedding.weight


def test_a_copy_follows_the_policy_to_its_numbers():
    """A failure would mean an error on the first step on a GPU, or in float64."""
    policy = net()
    reference = Reference(policy, beside=False)
    with reference.of(policy.double()) as kept:
        assert kept(TOKENS_BT).dtype == torch.float64


def test_beside_adapters_it_is_the_base_itself():
    """A failure would mean twice the memory, or a reference that has learned with the policy."""
    policy = net()
    for parameter in policy.parameters():
        parameter.requires_grad_(False)
    reference = Reference(policy, beside=True)
    expected = policy.eval()(TOKENS_BT)
    policy = entries.apply(policy.train(), [lora.Config(dropout=0.5)], entries.Base("", ""), None)
    with torch.no_grad():
        for part in adapter.parts(policy).values():
            for parameter in part.parameters():
                parameter.add_(0.1)
    with reference.of(policy) as kept:
        assert torch.equal(kept(TOKENS_BT), expected)
    assert reference.copy is None and reference.fingerprint == ""
    assert policy.training and not torch.equal(policy.eval()(TOKENS_BT), expected)


def test_a_trained_base_without_a_copy_is_refused():
    """A failure would mean that a policy is compared with itself, and nothing is learned."""
    policy = net()
    with pytest.raises(UserError, match="second copy"), Reference(policy, beside=True).of(policy):
        pass
