"""Training reaches the optimum that can be written down, in the world of conftest.py."""

from __future__ import annotations

import pytest
import torch

from lmcraft.rl.best_of_n import kl_bound
from lmcraft.rl.critic import NAME
from lmcraft.stages import grpo, ppo

ROLLOUT = {"episodes": 512, "max_new_tokens": 4, "missing_eos": -1.0}


def ppo_stage(beta: float, epochs: int = 4, **more) -> ppo.PPO:
    rollout = ROLLOUT | {"epochs": epochs}
    return ppo.PPO(ppo.Config(reward="length", kl={"coef": beta}, rollout=rollout, **more))


def group_stage(beta: float, **more) -> grpo.GRPO:
    settings = {"reward": "length", "kl_coef": beta, "group": 8, "rollout": ROLLOUT | {"epochs": 1}}
    return grpo.GRPO(grpo.Config(**settings | more))


@torch.no_grad()
def reached(world, policy, beta: float) -> tuple[float, float]:
    """Share of the possible gain, and KL(π ‖ π*) in nats."""
    logprobs_XY = world.logprobs(policy)
    return world.gain(logprobs_XY, beta), float(world.distance(logprobs_XY, beta))


@torch.no_grad()
def place(world, policy) -> tuple[float, float]:
    """KL(π ‖ reference) in nats, and the expected reward."""
    logprobs_XY = world.logprobs(policy)
    kl = (logprobs_XY.exp() * (logprobs_XY - world.reference_XY)).sum(dim=1).mean()
    return float(kl), float((logprobs_XY.exp() * world.rewards_XY).sum(dim=1).mean())


def share_of_best(world, kl: float, score: float) -> float:
    """A gain in units of what the best of n gains at the same distance."""
    begin = world.best_of(1)[1]
    return (score - begin) / (world.best_at(kl) - begin)


def test_the_best_of_two_is_that_of_all_pairs(world):
    """A failure of the closed form would mean that policies are compared with something else than the best of n."""
    score = kl = 0.0
    for chances_Y, rewards_Y in zip(world.reference_XY.exp(), world.rewards_XY, strict=True):
        wins_YY = (rewards_Y[:, None] > rewards_Y[None]).double() + (
            rewards_Y[:, None] == rewards_Y[None]
        ) / 2
        best_Y = 2 * chances_Y * (wins_YY @ chances_Y)
        score += float((best_Y * rewards_Y).sum()) / 4
        kl += float((best_Y * (best_Y / chances_Y).log()).sum()) / 4
    assert world.best_of(2) == pytest.approx((kl, score), abs=1e-12)
    assert world.best_of(1) == pytest.approx(world.frontier(1e9), abs=1e-6)
    assert all(world.best_of(n)[0] <= kl_bound(n) for n in (2, 4, 16, 64))
    assert all(world.best_of(n)[1] <= world.most(world.best_of(n)[0]) + 1e-9 for n in (2, 4, 16, 64))


@pytest.mark.parametrize("beta", [0.1, 0.3, 1.0, 3.0])
def test_the_distance_to_the_optimum_is_all_that_is_missing(world, beta):
    """J* − J = β·KL(π ‖ π*) for any policy; a failure would mean that the world itself is wrong."""
    torch.manual_seed(0)
    others = [
        world.reference_XY + torch.randn(world.reference_XY.shape, dtype=torch.float64) for _ in range(3)
    ]
    for logprobs_XY in (world.reference_XY, world.optimum(beta), *(o.log_softmax(dim=1) for o in others)):
        missing = world.objective(world.optimum(beta), beta) - world.objective(logprobs_XY, beta)
        assert float(missing) == pytest.approx(float(beta * world.distance(logprobs_XY, beta)), abs=1e-6)


def test_the_optimum_follows_backwards_too(world):
    """Soft values, from the last letter to the first, give the same optimum: two ways that share nothing."""
    beta = 0.3
    gains_XY = world.reference_XY + world.rewards_XY / beta
    for x in range(len(gains_XY)):
        ending = {answer: float(gain) for answer, gain in zip(world.answers, gains_XY[x], strict=True)}
        soft: dict[tuple, float] = dict(ending)
        for length in (3, 2, 1, 0):
            begun = {answer[:length] for answer in ending if len(answer) > length}
            for prefix in begun:
                after = [
                    value
                    for answer, value in soft.items()
                    if answer[:-1] == prefix and len(answer) == length + 1
                ]
                soft[prefix] = float(torch.tensor(after, dtype=torch.float64).logsumexp(0))
        total = torch.tensor(soft[()], dtype=torch.float64)
        torch.testing.assert_close(gains_XY[x] - total, world.optimum(beta)[x], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("group", [1, 8])
def test_ppo_goes_most_of_the_way_in_a_few_rounds(world, tmp_path, group):
    """The short form of the long test below."""
    stage = ppo_stage(0.3, group=group)
    policy = world.trained(stage, tmp_path, steps=120, batch_size=512)
    gain, _ = reached(world, policy, 0.3)
    assert gain > 0.85
    kl, score = place(world, policy)
    assert kl > 0 and score <= world.most(kl) + 1e-6, "no policy lies above the frontier"
    assert share_of_best(world, kl, score) > 0.9


@pytest.mark.long
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("beta", [0.3, 1.0])
def test_ppo_reaches_the_optimum(make_world, tmp_path, beta, seed):
    """A failure would mean that something pulls PPO away from what it is said to maximise.

    Each answer is trained on once: where the optimum is near, four epochs follow the noise of their answers.
    """
    world, stage = make_world(seed), ppo_stage(beta, epochs=1, value_coef=2.0)
    policy = world.trained(stage, tmp_path, steps=1200, batch_size=512, seed=seed)
    gain, distance = reached(world, policy, beta)
    assert gain >= 0.99 and distance <= 0.01
    assert share_of_best(world, *place(world, policy)) >= 1.0
    assert critic_error(world, policy, stage, beta) <= 0.01


@pytest.mark.long
@pytest.mark.parametrize("algorithm", ["rloo", "grpo"])
def test_group_methods_reach_it_too(world, tmp_path, algorithm):
    """With the penalty in the reward, comparing answers among one another leads to the same place."""
    stage = group_stage(0.3, algorithm=algorithm)
    policy = world.trained(stage, tmp_path, steps=600, batch_size=512)
    assert reached(world, policy, 0.3)[0] >= 0.98


@pytest.mark.long
def test_the_penalty_in_the_loss_has_another_fixed_point(world, tmp_path):
    """What the GRPO paper writes stays behind what it says to maximise; if this failed, the docs would be wrong."""
    there = group_stage(0.3, kl_in="loss")
    policy = world.trained(there, tmp_path, steps=600, batch_size=512)
    assert reached(world, policy, 0.3)[0] < 0.95


@torch.no_grad()
def critic_error(world, policy, stage, beta: float) -> float:
    """The largest difference between the critic's expectation of a prompt and the exact one."""
    rows = world.rows()
    found = stage.read(policy, rows)["values"].view(4, -1, rows.tokens_BT.shape[1])[:, 0, 1]
    logprobs_XY = world.logprobs(policy)
    gains_XY = world.rewards_XY - beta * (logprobs_XY - world.reference_XY)
    return float((found.double() - (logprobs_XY.exp() * gains_XY).sum(dim=1)).abs().max())


def test_a_reward_of_nothing_moves_nothing(world, tmp_path):
    """A drift would mean that the advantages are biased."""
    stage = ppo_stage(0.3)
    policy = stage.ready(world.policy(), [], None)
    loader = world.experience(stage, policy, tmp_path, 512)
    loader.reward = lambda answers: [0.0] * len(answers)
    loader.rollout = loader.rollout.model_copy(update={"missing_eos": None})
    batch = loader.next()
    assert float(batch.signals["advantages"].abs().max()) == 0.0 and NAME in dict(policy.named_children())


@pytest.mark.parametrize("group", [1, 8])
def test_first_epoch_has_a_ratio_of_exactly_one(world, tmp_path, group):
    """Anything else would mean that answers are scored otherwise than they are trained on."""
    stage = ppo_stage(0.3, group=group)
    policy = stage.ready(world.policy(), [], None)
    loader = world.experience(stage, policy, tmp_path, 512, micro=64)
    for micro in loader.next().split(64):
        stage.loss(policy, micro)
    told = stage.told()
    assert told["ratio"] == 1.0 and told["approx_kl"] == 0.0 and told["clip_fraction"] == 0.0
    assert loader.facts["kl"] == pytest.approx(0.0, abs=1e-6)
