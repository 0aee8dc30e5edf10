"""The critic: 0 at first, wide numbers, no trace in the policy that is kept."""

from __future__ import annotations

import pytest
import torch

from lmcraft.adapt import entries, lora
from lmcraft.core.errors import UserError
from lmcraft.models import decoder
from lmcraft.models import model as models
from lmcraft.rl import critic

TOKENS_BT = torch.arange(8)[None]
SEGMENTS_BT = torch.ones_like(TOKENS_BT)


def net(**more):
    torch.manual_seed(0)
    return models.build(decoder.Config(vocab=11, layers=1, width=16, heads=2, context=8, **more))


@pytest.mark.parametrize("separate", [False, True])
def test_it_expects_nothing_at_first(separate):
    """A failure would mean that the first steps follow the noise of a fresh head."""
    model = critic.put_on(net(), separate)
    values_BT = model.critic(model(TOKENS_BT), TOKENS_BT, SEGMENTS_BT)
    assert values_BT.shape == TOKENS_BT.shape and not values_BT.any()


def test_a_shared_one_reads_the_policy_and_a_separate_one_does_not():
    """A failure would mean that a critic of its own moves the policy, or that a shared one sees nothing."""
    for separate in (False, True):
        model = critic.put_on(net(), separate)
        torch.nn.init.ones_(model.critic.value.weight)
        hidden_BTD = model(TOKENS_BT)
        model.critic(hidden_BTD, TOKENS_BT, SEGMENTS_BT).sum().backward()
        moved = {n for n, p in model.named_parameters() if p.grad is not None and p.grad.any()}
        of_policy = {name for name in moved if not name.startswith("critic.")}
        assert bool(of_policy) != separate
        assert any(name.startswith("critic.body.") for name in moved) == separate


def test_values_are_wide_numbers():
    """In 16 bits a value near 100 would be wrong by a quarter, and advantages are differences of values."""
    model = critic.put_on(net(), separate=False)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        values_BT = model.critic(model(TOKENS_BT), TOKENS_BT, SEGMENTS_BT)
    assert values_BT.dtype == torch.float32
    hidden_BTD = model(TOKENS_BT)
    assert model.critic(hidden_BTD.bfloat16(), TOKENS_BT, SEGMENTS_BT).dtype == torch.float32
    assert model.critic(hidden_BTD.double(), TOKENS_BT, SEGMENTS_BT).dtype == torch.float64
    assert critic.put_on(net().double(), separate=False).critic.value.weight.dtype == torch.float64
    assert critic.put_on(net().bfloat16(), separate=False).critic.value.weight.dtype == torch.float32


def test_one_that_is_there_is_kept():
    """A failure would mean that a resumed or a second round of training forgets what was expected."""
    model = critic.put_on(net(), separate=False)
    first = model.critic
    assert critic.put_on(model, separate=True).critic is first


@pytest.mark.parametrize("separate", [False, True])
def test_without_it_the_policy_is_as_it_was(separate):
    """A failure would mean that saved models carry weights that nobody asked for."""
    expected, names = net()(TOKENS_BT), set(net().state_dict())
    model = critic.taken_off(critic.put_on(net(), separate))
    assert torch.equal(model(TOKENS_BT), expected) and set(model.state_dict()) == names
    assert set(critic.taken_off(model).state_dict()) == names  # twice does no harm


def test_beside_an_adapter_it_is_taken_off_too():
    """A failure would mean that an adapter's directory holds the critic, and cannot be loaded without one."""
    model = net()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    model = critic.put_on(model, separate=False)
    model = entries.apply(model, [lora.Config()], entries.Base("", ""), None)
    assert any(name.startswith("critic.") for adapted in model.adapted for name in adapted.beside)
    model = critic.taken_off(model)
    assert not any(name.startswith("critic.") for adapted in model.adapted for name in adapted.beside)
    assert not any(name.startswith("critic.") for name in model.state_dict())


def test_a_second_base_beside_an_adapter_is_refused():
    """A failure would mean that an adapter, which should save memory, needs twice the base."""
    model = net()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    model = entries.apply(critic.put_on(model, separate=True), [lora.Config()], entries.Base("", ""), None)
    with pytest.raises(UserError, match="critic of its own"):
        critic.refuse_adapted(model)
    critic.refuse_adapted(critic.put_on(net(), separate=True))
