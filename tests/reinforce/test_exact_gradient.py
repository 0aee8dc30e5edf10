"""The surrogate's gradient, with every answer weighted by its probability, is the gradient of the objective itself."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from lmcraft.data.batch import IGNORE, Batch
from lmcraft.rl import advantages, critic, objective
from lmcraft.stages import grpo, ppo

BETA = 0.3


def config(**more) -> ppo.Config:
    settings = {
        "reward": "length",
        "kl": {"coef": BETA},
        "decay": 1.0,
        "value_coef": 0.0,
        "whiten_advantages": False,
    }
    return ppo.Config(**settings | more)


def moved(world, critical: bool = True):
    """A policy away from its reference, in float64, with a critic that expects anything."""
    policy = world.policy(torch.float64)
    if critical:
        critic.put_on(policy, separate=False)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return policy


def weights(world, logprobs_XY: Tensor, rows: Batch) -> Tensor:
    """π(y|x)/4 for every token of a row."""
    each_B = logprobs_XY.detach().exp().flatten() / len(logprobs_XY)
    return each_B[:, None].expand(rows.targets_BT.shape)


def read(world, stage, policy) -> Batch:
    """All rows, with what policy and reference say of them, and each row's share."""
    rows = world.rows()
    with torch.no_grad():
        found = stage.read(policy, rows)
        reference_BT = world.token_logprobs(copy.deepcopy(world.reference).double())
    signals = found | {"reference": reference_BT, "weights": weights(world, world.logprobs(policy), rows)}
    return replace(rows, signals=signals)


def credited(world, stage, policy) -> Batch:
    rows = read(world, stage, policy)
    return replace(rows, signals=rows.signals | stage.credit(rows, world.rewards_XY.flatten()))


def gradient(loss: Tensor, policy) -> Tensor:
    named = [p for name, p in policy.named_parameters() if not name.startswith(critic.NAME)]
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, named)])


def error(found: Tensor, right: Tensor) -> float:
    return float((found - right).norm() / right.norm())


def exact(world, policy) -> Tensor:
    return gradient(-world.objective(world.logprobs(policy), BETA), policy)


def test_ppo_has_the_gradient_of_the_objective(world):
    """A failure would mean that PPO climbs another hill than the one that is stated."""
    stage, policy = ppo.PPO(config()), moved(world)
    rows = credited(world, stage, policy)
    assert error(gradient(stage.loss(policy, rows), policy), exact(world, policy)) < 1e-10


def test_shaping_leaves_the_gradient_as_it_is(world):
    """Whatever a beginning is worth; a failure would mean that shaping leads to another policy."""
    stage, policy = ppo.PPO(config(shaping=True)), moved(world)
    rows = read(world, stage, policy)
    steps_T = torch.arange(1, rows.tokens_BT.shape[1] + 1, dtype=torch.float64)
    potential_BT = torch.sin(3 * (rows.tokens_BT + 1) * steps_T).cumsum(dim=1)  # of what was read so far
    rows = replace(rows, signals=rows.signals | {"potential": potential_BT})
    rows = replace(rows, signals=rows.signals | stage.credit(rows, world.rewards_XY.flatten()))
    assert error(gradient(stage.loss(policy, rows), policy), exact(world, policy)) < 1e-10
    plain = credited(world, ppo.PPO(config()), policy).signals["advantages"]
    assert float((rows.signals["advantages"] - plain).abs().max()) > 0.1


def test_the_clip_does_not_matter_where_nothing_has_moved(world):
    """A failure would mean that clipping cuts the gradient of the first step."""
    stage, policy = ppo.PPO(config(clip=1e-6)), moved(world)
    rows = credited(world, stage, policy)
    assert error(gradient(stage.loss(policy, rows), policy), exact(world, policy)) < 1e-10


@pytest.mark.parametrize("algorithm", ["rloo", "dr_grpo"])
def test_methods_without_critic_have_it_too(world, algorithm):
    """With the expectation of the other answers as the baseline, the surrogate is REINFORCE, and that is exact."""
    stage = grpo.GRPO(grpo.Config(reward="length", kl_coef=BETA, algorithm=algorithm))
    policy = moved(world, critical=False)
    rows = read(world, stage, policy)
    kl_B = objective.k1(rows.signals["logprobs"], rows.signals["reference"]).sum(dim=1)
    scores_XY = world.rewards_XY - BETA * kl_B.view(world.rewards_XY.shape)
    expected_X1 = (world.logprobs(policy).detach().exp() * scores_XY).sum(dim=1, keepdim=True)
    mask_BT = rows.targets_BT != IGNORE
    signals = rows.signals | {"advantages": (scores_XY - expected_X1).reshape(-1, 1) * mask_BT}
    found = gradient(stage.loss(policy, replace(rows, signals=signals)), policy)
    assert error(found, exact(world, policy)) < 1e-10


def test_leaving_one_out_is_unbiased(world):
    """Over all pairs of answers, RLOO's advantages give the same gradient; a failure would mean a biased baseline."""
    policy = moved(world, critical=False)
    logprobs_XY = world.logprobs(policy)
    probabilities_Y, scores_Y = logprobs_XY[0].detach().exp(), world.rewards_XY[0]
    pairs_YY2 = torch.stack(torch.broadcast_tensors(scores_Y[:, None], scores_Y[None]), dim=-1)
    advantages_YY2 = advantages.leave_one_out(pairs_YY2.reshape(-1, 2)).view(pairs_YY2.shape)
    both_YY = probabilities_Y[:, None] * probabilities_Y[None]
    mean_Y = (both_YY * advantages_YY2[..., 0]).sum(dim=1) + (both_YY * advantages_YY2[..., 1]).sum(dim=0)
    found = gradient((-logprobs_XY[0] * mean_Y / 2).sum(), policy)
    right = gradient(-(world.logprobs(policy)[0].exp() * scores_Y).sum(), policy)
    assert error(found, right) < 1e-10


def test_values_are_pulled_towards_the_exact_expectation(world):
    """A failure would mean that the critic learns something else than what is to be expected of a beginning."""
    stage, policy = ppo.PPO(config(value_clip=1e9)), moved(world)
    rows = credited(world, stage, policy)
    mask_BT, shares_BT = rows.targets_BT != IGNORE, rows.signals["weights"]
    returns_BT = rows.signals["returns"]
    found = torch.autograd.grad(
        (objective.value_loss(stage.read(policy, rows)["values"], rows.signals["values"], returns_BT, 1e9)
         * shares_BT * mask_BT).sum(), list(policy.critic.parameters()),
    )  # fmt: skip
    expected_BT = expectation(rows, returns_BT)
    right = torch.autograd.grad(
        ((stage.read(policy, rows)["values"] - expected_BT).square() / 2 * shares_BT * mask_BT).sum(),
        list(policy.critic.parameters()),
    )  # fmt: skip
    for one, other in zip(found, right, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def expectation(rows: Batch, returns_BT: Tensor) -> Tensor:
    """For every position the mean return of all answers that begin as this one does, [B, T]."""
    sums: dict[tuple, list[float]] = {}
    places = [(b, t) for b, t in (rows.targets_BT != IGNORE).nonzero().tolist()]
    begun = {(b, t): tuple(rows.tokens_BT[b, : t + 1].tolist()) for b, t in places}
    for (b, t), prefix in begun.items():
        share = float(rows.signals["weights"][b, t])
        total = sums.setdefault(prefix, [0.0, 0.0])
        total[0] += share * float(returns_BT[b, t])
        total[1] += share
    found_BT = torch.zeros_like(returns_BT)
    for (b, t), prefix in begun.items():
        found_BT[b, t] = sums[prefix][0] / sums[prefix][1]
    return found_BT


# What goes wrong, by how much the gradient is then off. Each is a mistake that a training run would survive.
def stale(world, stage, policy):
    rows = credited(world, stage, policy)
    return replace(rows, signals=rows.signals | {"logprobs": rows.signals["logprobs"] * 0.9})


def end_not_trained(world, stage, policy):
    rows = credited(world, stage, policy)
    return replace(rows, targets_BT=rows.targets_BT.masked_fill(rows.targets_BT == 5, IGNORE))


def penalty_of_the_other_sign(world, stage, policy):
    stage.coefficient = -BETA
    return credited(world, stage, policy)


def k3_in_the_reward(world, stage, policy):
    rows = read(world, stage, policy)
    new_BT, old_BT = rows.signals["logprobs"], rows.signals["reference"]
    instead_BT = new_BT - objective.k3(new_BT, old_BT)  # k1 of it is k3
    rows = replace(rows, signals=rows.signals | {"reference": instead_BT})
    return replace(rows, signals=rows.signals | stage.credit(rows, world.rewards_XY.flatten()))


@pytest.mark.parametrize("fault", [stale, end_not_trained, penalty_of_the_other_sign, k3_in_the_reward])
def test_the_identity_notices_faults(world, fault):
    """A failure would mean that the tests above cannot fail."""
    stage, policy = ppo.PPO(config()), moved(world)
    rows = fault(world, stage, policy)
    assert error(gradient(stage.loss(policy, rows), policy), exact(world, policy)) > 0.1
