"""PPO as a stage: its settings, what a round is worth, and what is refused. What it reaches: tests/reinforce."""

from __future__ import annotations

import pytest
import torch

from lmcraft.core.errors import UserError
from lmcraft.data.batch import IGNORE, Batch
from lmcraft.models import decoder, encoder
from lmcraft.models import model as models
from lmcraft.rl import critic
from lmcraft.stages import ppo


def net(schema=decoder, **more):
    torch.manual_seed(0)
    return models.build(schema.Config(vocab=6, layers=1, width=16, heads=2, context=8, **more))


def stage(**more) -> ppo.PPO:
    return ppo.PPO(ppo.Config(**{"reward": "length"} | more))


TARGETS_BT = torch.tensor([[IGNORE, 3, 5, IGNORE], [IGNORE, 5, IGNORE, IGNORE], [IGNORE, 1, 2, 4]])


def rows(**signals) -> Batch:
    """Three answers, of which policy, reference and critic say something."""
    draw = torch.Generator().manual_seed(1)
    tokens_BT = torch.tensor([[5, 1, 3, 0], [5, 2, 0, 0], [5, 0, 1, 2]])
    segments_BT = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0], [1, 1, 1, 1]])
    made = {name: torch.randn(3, 4, generator=draw) for name in ("logprobs", "reference", "values")}
    return Batch(tokens_BT, TARGETS_BT, segments_BT, ["a", "b", "c"], signals=made | signals)


def test_its_defaults_are_the_published_ones():
    """Another default would mean another method under the same name (trap 45)."""
    config = ppo.Config(reward="length")
    found = (config.clip, config.value_clip, config.value_coef, config.discount, config.decay)
    assert found == (0.2, 0.2, 0.1, 1.0, 0.95)
    assert config.rollout.epochs == 4 and config.rollout.missing_eos == -1.0 and config.kl.coef == 0.05
    assert config.whiten_advantages and not config.whiten_rewards and config.kl.target is None
    assert not config.shaping
    assert (
        config.group == 1
        and config.kl.horizon == 10_000
        and config.rollout.temperature == 1.0
        and config.critic == "shared"
    )


def test_advantages_of_a_round_are_whitened_over_its_tokens():
    """A failure would mean that padding, or each answer for itself, sets the size of a step."""
    signals = stage().credit(rows(), torch.tensor([1.0, 2.0, 3.0]))
    chosen = signals["advantages"][TARGETS_BT != IGNORE]
    assert float(chosen.mean()) == pytest.approx(0, abs=1e-6)
    assert float(chosen.var(unbiased=False)) == pytest.approx(1, abs=1e-5)
    assert not signals["advantages"][TARGETS_BT == IGNORE].any()
    plain = stage(whiten_advantages=False).credit(rows(), torch.tensor([1.0, 2.0, 3.0]))
    assert torch.equal(plain["returns"], signals["returns"])  # returns come first (trap 43)


def test_whitened_rewards_keep_their_mean():
    """A failure would mean that a reward loses its zero, and with it the meaning of ending early."""
    settings = {"decay": 1.0, "whiten_advantages": False, "whiten_rewards": True, "kl": {"coef": 0.0}}
    scores_B = torch.tensor([1.0, 2.0, 3.0])
    returns_BT = stage(**settings).credit(rows(values=torch.zeros(3, 4)), scores_B)["returns"]
    plain = torch.tensor([0.0, 1, 2, 0, 0, 3])  # rewards of the six tokens
    right = (plain - 1) / plain.std(unbiased=False) + 1
    assert returns_BT[0, 1].item() == pytest.approx(float(right[0] + right[1]), abs=1e-5)
    assert returns_BT[1, 1].item() == pytest.approx(float(right[2]), abs=1e-5)


def test_another_unit_of_the_score_changes_nothing():
    """Ten times the reward at ten times the penalty is the same task; a failure would mean another step (§8)."""
    scores_B, none = torch.tensor([1.0, -2.0, 3.0]), torch.zeros(3, 4)
    model = critic.put_on(net(), separate=False)
    found = []
    for unit in (1.0, 10.0):
        made = stage(kl={"coef": 0.1 * unit}, value_coef=0.0)
        batch = rows(values=none)
        batch = Batch(**{**vars(batch), "signals": batch.signals | made.credit(batch, unit * scores_B)})
        names = [p for name, p in model.named_parameters() if not name.startswith(critic.NAME)]
        slopes = torch.autograd.grad(made.loss(model, batch), names)
        found.append((batch.signals["advantages"], torch.cat([slope.flatten() for slope in slopes])))
    (one, slope), (ten, other) = found
    torch.testing.assert_close(ten, one, rtol=0, atol=1e-5)
    torch.testing.assert_close(other, slope, rtol=1e-4, atol=1e-5)
    assert float(slope.abs().max()) > 1e-3


def test_the_penalty_is_adapted_after_each_round():
    """A failure would mean a leash of fixed length where another was asked for, or the other way round."""
    made = stage(kl={"coef": 0.2, "target": 6.0})
    made.after({"score": 1.0, "kl": 12.0}, 512)
    assert made.coefficient == pytest.approx(0.2 * 1.01024)
    told = made.told()
    assert told["kl_coef"] == 0.2 and told["objective"] == pytest.approx(1.0 - 0.2 * 12)
    other = stage(kl={"coef": 0.2, "target": 6.0})
    other.restore(made.state())
    assert other.coefficient == made.coefficient
    fixed = stage(kl={"coef": 0.2})
    fixed.after({"score": 1.0, "kl": 12.0}, 512)
    assert fixed.coefficient == 0.2


def test_how_much_the_critic_explains():
    """1 is all, 0 no more than a constant; a failure would mean that a useless critic looks good."""
    made, returns_N = stage(), torch.tensor([1.0, 2.0, 4.0])
    for values_N, right in ((returns_N, 1.0), (torch.full((3,), 9.0), 0.0), (returns_N + 5, 1.0)):
        made.note_round(values_N, returns_N)
        assert made.told()["explained_variance"] == pytest.approx(right, abs=1e-6)
    made.note_round(returns_N, torch.ones(3))  # nothing to explain
    assert "explained_variance" not in made.told()


def test_what_it_tells_of_a_step_by_hand():
    """Means over tokens, and then nothing is left; a failure would mean that curves show other steps too."""
    made = stage()
    made.note(torch.tensor([-1.0, -2.0]), torch.tensor([-1.0, -1.0]), torch.tensor([3.0, 1.0]), torch.ones(2))
    made.note(torch.tensor([-3.0]), torch.tensor([-3.1]), torch.tensor([2.0]), torch.ones(1))
    told = made.told()
    ratios = torch.tensor([0.0, -1.0, 0.1]).exp()
    assert told["ratio"] == pytest.approx(float(ratios.mean()))
    assert told["approx_kl"] == pytest.approx((1 + 0.01) / 2 / 3, rel=1e-5)
    assert told["clip_fraction"] == pytest.approx(1 / 3) and told["policy_loss"] == pytest.approx(2.0)
    assert told["entropy"] == pytest.approx(2.0) and told["value_loss"] == 1.0 and made.told() == {}


def test_the_critic_comes_and_goes():
    """A failure would mean that a saved model carries a critic, or that training has none."""
    made, model = stage(critic="separate"), net()
    names = set(model.state_dict())
    ready = made.ready(model, [], None)
    assert ready.critic.body is not None
    assert set(made.finished(ready, None).state_dict()) == names


def test_what_cannot_be_trained_so_is_refused():
    """A failure would mean hours of training towards nothing, or a traceback."""
    with pytest.raises(UserError, match="nothing says which answers are good"):
        ppo.PPO(ppo.Config()).ready(net(), [], None)
    with pytest.raises(UserError, match="writes no answers"):
        stage().ready(net(encoder), [], None)
