"""What a reward model from few votes does to its policy: the proxy rises, and the true reward falls after its peak.

Nothing here is drawn but votes: the policy is the exact optimum π* = ref · exp(proxy/β) / Z for every β, so no trainer
is to blame. Gao et al., arXiv 2210.10760.

The world: two prompts, ten letters, all 10,000 answers of four. The true reward adds up the worth of the letters, but
an answer with a letter three times is worth PENALTY less. Such answers are rare (4 %), so few votes show what letters
are worth and hardly any show that more of the best letter is not better. The reward model is small and knows both
features of every letter; with few votes its prior keeps the rare ones near 0.

Legend: X prompts, Y answers, F features, N votes.
"""

from __future__ import annotations

import itertools
import statistics
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

LETTERS, LONG, PROMPTS, PENALTY, PRIOR = 10, 4, 2, 6.0, 1.0
ANSWERS = torch.tensor([*itertools.product(range(LETTERS), repeat=LONG)])
COUNTS_YL = F.one_hot(ANSWERS, LETTERS).sum(dim=1).double()
FEATURES_YF = torch.cat((COUNTS_YL, (COUNTS_YL >= 3).double()), dim=1)
NATS = (0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0)
SEEDS = range(10)


class World:
    """A reference and a true reward, in standard deviations of the reference's answers."""

    def __init__(self, seed: int) -> None:
        self.draw = torch.Generator().manual_seed(seed)
        self.reference_XY = torch.zeros(PROMPTS, len(ANSWERS), dtype=torch.float64)
        for place in range(LONG):
            logits = 0.5 * torch.randn(
                PROMPTS, LETTERS**place, LETTERS, generator=self.draw, dtype=torch.float64
            )
            each = logits.log_softmax(dim=-1).view(PROMPTS, -1)
            self.reference_XY += each.repeat_interleave(LETTERS ** (LONG - place - 1), dim=1)
        worth = torch.linspace(-1, 1, LETTERS, dtype=torch.float64)[
            torch.randperm(LETTERS, generator=self.draw)
        ]
        self.gold_XY = self.scaled(FEATURES_YF @ torch.cat((worth, torch.full_like(worth, -PENALTY))))

    def scaled(self, scores_Y: Tensor) -> Tensor:
        """Scores with mean 0 and deviation 1 over the reference's answers."""
        chances_XY = self.reference_XY.exp() / PROMPTS
        mean = (chances_XY * scores_Y).sum()
        return ((scores_Y - mean) / (chances_XY * (scores_Y - mean).square()).sum().sqrt()).expand(
            PROMPTS, -1
        )

    def proxy(self, votes: int) -> Tensor:
        """The scores of a reward model fitted on votes about the reference's answers, most probable a posteriori."""
        asked_N = torch.randint(PROMPTS, (votes,), generator=self.draw)
        pairs_N2 = torch.multinomial(
            self.reference_XY.exp()[asked_N], 2, replacement=True, generator=self.draw
        )
        gaps_N = self.gold_XY[asked_N, pairs_N2[:, 0]] - self.gold_XY[asked_N, pairs_N2[:, 1]]
        first_N = torch.rand(votes, generator=self.draw, dtype=torch.float64) < gaps_N.sigmoid()
        sides_N1 = torch.where(first_N, 1.0, -1.0)[:, None]
        differences_NF = (FEATURES_YF[pairs_N2[:, 0]] - FEATURES_YF[pairs_N2[:, 1]]) * sides_N1
        return self.scaled(FEATURES_YF @ fitted(differences_NF))

    def policy(self, scores_XY: Tensor, nats: float) -> Tensor:
        """log π of the best policy for these scores at this distance from the reference: β is found by halving."""
        near, far = 1e3, 1e-3
        for _ in range(24):
            beta = (near * far) ** 0.5
            logs_XY = (self.reference_XY + scores_XY / beta).log_softmax(dim=1)
            distance = float((logs_XY.exp() * (logs_XY - self.reference_XY)).sum(dim=1).mean())
            near, far = (beta, far) if distance < nats else (near, beta)
        assert distance == pytest.approx(nats, abs=1e-3)
        return logs_XY


def fitted(differences_NF: Tensor) -> Tensor:
    """Weights of features by Bradley and Terry with a normal prior: Newton's method on a convex loss."""
    prior_FF = PRIOR * torch.eye(differences_NF.shape[1], dtype=torch.float64)
    weights_F = torch.zeros(differences_NF.shape[1], dtype=torch.float64)
    for _ in range(12):
        surprise_N = torch.sigmoid(-(differences_NF @ weights_F))
        slope_F = differences_NF.T @ surprise_N - PRIOR * weights_F
        bend_FF = differences_NF.T @ (differences_NF * (surprise_N * (1 - surprise_N))[:, None])
        weights_F = weights_F + torch.linalg.solve(bend_FF + prior_FF, slope_F)
    assert float(slope_F.abs().max()) < 1e-6
    return weights_F


@cache
def curves(votes: int, seed: int) -> tuple[list[float], list[float]]:
    """True reward and proxy of the best policies at NATS; of votes = 0, the policies that climb the true reward."""
    world = World(seed)
    proxy_XY = world.proxy(votes) if votes else world.gold_XY
    policies = [world.policy(proxy_XY, nats).exp() for nats in NATS]
    gold, proxy = (
        [float((one * scores_XY).sum(dim=1).mean()) for one in policies]
        for scores_XY in (world.gold_XY, proxy_XY)
    )
    return gold, proxy


def median_at(votes: int, nats: float) -> float:
    return statistics.median(curves(votes, seed)[0][NATS.index(nats)] for seed in SEEDS)


def test_with_few_votes_the_true_reward_falls_while_the_proxy_rises():
    """A failure would mean that this world cannot show what it is for: that a proxy must not be climbed to its top."""
    falls = 0
    for seed in SEEDS:
        gold, proxy = curves(30, seed)
        assert proxy == sorted(proxy)
        falls += max(gold) - gold[-1] >= 0.3
    assert falls >= 9


def test_more_votes_reach_further():
    """A failure would mean that votes are of no use, or that proxies are not what they are fitted on."""
    reached = [median_at(votes, 4.0) for votes in (30, 100, 300)]
    assert reached == sorted(reached) and reached[-1] - reached[0] > 0.5


def test_no_proxy_beats_the_true_reward():
    """What climbs the true reward is the best at every distance; a failure would be a mistake in this file."""
    for seed in SEEDS:
        best, same = curves(0, seed)
        assert best == same == sorted(best)
        for votes in (30, 300):
            assert all(one <= other + 1e-3 for one, other in zip(curves(votes, seed)[0], best, strict=True))


@pytest.mark.long
def test_with_many_votes_there_is_no_turn():
    """A failure would mean that over-optimisation comes from something else than too few votes."""
    reached = [median_at(votes, 4.0) for votes in (30, 100, 300, 1000, 10_000)]
    assert reached == sorted(reached)
    for seed in SEEDS:
        gold, proxy = curves(10_000, seed)
        assert gold == sorted(gold) and proxy == sorted(proxy)
    for votes in (30, 100, 300, 1000, 10_000, 0):
        print(votes or "true reward", [round(median_at(votes, nats), 2) for nats in NATS])  # for docs/log.md
