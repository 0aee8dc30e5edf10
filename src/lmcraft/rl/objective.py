"""What PPO descends: the clipped surrogate, the clipped value loss; and estimators of the KL divergence.

    surrogate_t = max(−A_t ρ_t, −A_t clip(ρ_t, 1−ε, 1+ε)),      ρ_t = exp(log π(a_t) − log π_old(a_t))
    value_t     = ½ max((V_t − R_t)², (clip(V_t, V_old ± ε) − R_t)²)
    k1 = d,   k2 = d²/2,   k3 = exp(−d) − 1 + d,      d = log π(a) − log ref(a),   a drawn from π

Schulman et al., arXiv 1707.06347; Schulman, "Approximating KL Divergence" (2020).

1. Everything is one number a token; who calls sums, and only the training loop divides.
2. k1 belongs into the reward: its gradient through the score function is that of the KL divergence. k3 in the reward
   is another objective, and either of them as a loss has another fixed point (Tang and Munos, arXiv 2506.09477);
   tests/reinforce/test_exact_gradient.py shows by how much.

Legend: N positions, or any shape.
Proved by tests/unit/rl/test_objective.py and tests/reinforce/test_exact_gradient.py.
"""

from __future__ import annotations

import torch
from torch import Tensor


def surrogate(new_N: Tensor, old_N: Tensor, advantages_N: Tensor, clip: float | None) -> Tensor:
    """The loss of each token; None clips nothing.

    Args:
        new_N, old_N: log-probabilities of the chosen tokens, now and when they were drawn.
    """
    ratio_N = (new_N - old_N).exp()
    loss_N = -advantages_N * ratio_N
    if clip is None:
        return loss_N
    return torch.maximum(loss_N, -advantages_N * ratio_N.clamp(1 - clip, 1 + clip))


def value_loss(values_N: Tensor, old_N: Tensor, returns_N: Tensor, clip: float | None) -> Tensor:
    """The loss of each value; it may move at most `clip` from what it was at the rollout before it is held back."""
    error_N = (values_N - returns_N).square()
    if clip is not None:
        held_N = old_N + (values_N - old_N).clamp(-clip, clip)
        error_N = torch.maximum(error_N, (held_N - returns_N).square())
    return error_N / 2


def k1(new_N: Tensor, reference_N: Tensor) -> Tensor:
    """Unbiased, of either sign for a sample."""
    return new_N - reference_N


def k2(new_N: Tensor, reference_N: Tensor) -> Tensor:
    """Biased; its gradient is that of the KL divergence where the policy is near."""
    return (new_N - reference_N).square() / 2


def k3(new_N: Tensor, reference_N: Tensor) -> Tensor:
    """Unbiased and never negative."""
    difference_N = reference_N - new_N
    return difference_N.exp() - 1 - difference_N


def adapted(coefficient: float, kl: float, target: float, episodes: int, horizon: int) -> float:
    """The coefficient of the KL penalty after a rollout (Ziegler et al., arXiv 1909.08593).

    Args:
        kl: of this rollout, in nats an answer; `target`: what it should be.
        horizon: episodes in which the coefficient can change by about a fifth.
    """
    error = min(max(kl / target - 1, -0.2), 0.2)
    return coefficient * (1 + error * episodes / horizon)
