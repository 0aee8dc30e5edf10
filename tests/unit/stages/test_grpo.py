"""Methods without a critic: whom an answer is compared with, what a token counts for, and where the penalty stands."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lmcraft.data.batch import IGNORE, Batch
from lmcraft.models import decoder
from lmcraft.models import model as models
from lmcraft.rl import objective
from lmcraft.rl.experience import weighted
from lmcraft.stages import grpo

TARGETS_BT = torch.tensor([[IGNORE, 5, IGNORE, IGNORE], [IGNORE, 1, 2, 5]])
MASK_BT = TARGETS_BT != IGNORE


def stage(**more) -> grpo.GRPO:
    return grpo.GRPO(grpo.Config(**{"reward": "length", "group": 2} | more))


def net():
    torch.manual_seed(0)
    return models.build(decoder.Config(vocab=6, layers=1, width=16, heads=2, context=8))


def rows() -> Batch:
    """Two answers to a prompt, of one and of three tokens."""
    draw = torch.Generator().manual_seed(1)
    signals = {name: torch.randn(2, 4, generator=draw) for name in ("logprobs", "reference")}
    tokens_BT = torch.tensor([[5, 1, 0, 0], [5, 1, 1, 2]])
    segments_BT = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1]])
    return Batch(tokens_BT, TARGETS_BT, segments_BT, ["a", "a"], signals=signals)


def test_its_defaults():
    """Another default would mean another method under the same name."""
    config = grpo.Config(reward="length")
    assert (config.group, config.clip, config.kl_in, config.algorithm) == (8, 0.2, "reward", "grpo")
    assert config.rollout.epochs == 1


@pytest.mark.parametrize(
    "algorithm,right", [("grpo", [0.5, 1 / 6]), ("dr_grpo", [1 / 8, 1 / 8]), ("rloo", [0.5, 0.5])]
)
def test_what_a_token_counts_for(algorithm, right):
    """The loop divides by 4 tokens; a failure would mean that length is rewarded by accident (trap 47)."""
    made = stage(algorithm=algorithm, rollout={"max_new_tokens": 4, "epochs": 1})
    weights_BT = weighted(rows(), made).signals["weights"] / rows().count
    assert weights_BT[0, 1].item() == pytest.approx(right[0])
    assert weights_BT[1, 1:].tolist() == pytest.approx([right[1]] * 3)
    assert not weights_BT[~MASK_BT].any()


def test_the_penalty_is_counted_once():
    """In the score or in the loss, never in both; a failure would mean another leash than was asked for (trap 38)."""
    scores_B, batch = torch.tensor([1.0, 2.0]), rows()
    kl_B = ((batch.signals["logprobs"] - batch.signals["reference"]) * MASK_BT).sum(dim=1)
    losses = {}
    for place in ("reward", "loss"):
        made, model = stage(algorithm="rloo", kl_coef=0.3, kl_in=place), net()
        found = made.credit(batch, scores_B)["advantages"]
        worth = scores_B - 0.3 * kl_B if place == "reward" else scores_B
        right = torch.stack([worth[0] - worth[1], worth[1] - worth[0]])
        torch.testing.assert_close(found, right[:, None] * MASK_BT)
        signals = batch.signals | {"advantages": torch.ones(2, 4), "weights": MASK_BT.float()}
        losses[place] = made.loss(model, replace(batch, signals=signals))
    with torch.no_grad():
        new_BT = made.read(model, batch)["logprobs"]
    penalty_BT = 0.3 * objective.k3(new_BT, batch.signals["reference"])
    torch.testing.assert_close(losses["loss"] - losses["reward"], (penalty_BT * MASK_BT).sum())


def test_without_a_penalty_there_is_no_reference():
    """A failure would mean a second copy of the weights for nothing."""
    assert not stage(kl_coef=0.0).needs_reference and stage().needs_reference
    made = stage(kl_coef=0.0, algorithm="rloo")
    batch = replace(rows(), signals={})
    assert made.credit(batch, torch.tensor([1.0, 3.0]))["advantages"][:, 1].tolist() == [-2.0, 2.0]


def test_groups_that_agree_teach_nothing_and_are_counted():
    """A failure would mean that a prompt which is always, or never, solved looks like learning."""
    made = stage(kl_coef=0.0)
    batch = replace(
        rows(), targets_BT=TARGETS_BT.repeat(2, 1), tokens_BT=torch.zeros(4, 4, dtype=torch.long), signals={}
    )
    found = made.credit(batch, torch.tensor([2.0, 2.0, 1.0, 3.0]))["advantages"]
    assert not found[:2].any() and found[2:].any() and made.told()["equal_groups"] == 0.5


def test_the_objective_is_told():
    """A failure would mean that a curve leaves the penalty out."""
    made = stage(kl_coef=0.5)
    made.after({"score": 1.0, "kl": 4.0}, 8)
    assert made.told() == {"objective": -1.0}
    made.after({"score": 1.0}, 8)
    assert made.told() == {"objective": 1.0}


def test_one_setting_of_a_rollout_leaves_the_others_as_they_are():
    """A failure would mean that asking for longer answers makes four epochs of one."""
    assert grpo.Config(reward="length", rollout={"max_new_tokens": 5}).rollout.epochs == 1
