"""Credit: how much better each token, or each answer, was than expected.

    δ_t = r_t + γ V_{t+1} − V_t          A_t = δ_t + γλ A_{t+1}          return_t = A_t + V_t          (GAE)
    shaping: r_t + γ Φ_{t+1} − Φ_t, with Φ = 0 behind the end
    RLOO: A_i = s_i − mean of the other answers to the prompt
    GRPO: A_i = (s_i − mean of the group) / standard deviation         Dr. GRPO: without the division

Schulman et al., arXiv 1506.02438; Ng, Harada and Russell, "Policy Invariance Under Reward Transformations" (ICML 1999;
shaping); Ahmadian et al., 2402.14740 (RLOO); Shao et al., 2402.03300 (GRPO); Liu et al.,
2503.20783 (Dr. GRPO).

1. An answer ends the episode, cut off or not: nothing is expected behind its last token.
2. Whitening uses the biased variance and sees no padding (Huang et al., arXiv 2403.17031, details 18 and 19).

Legend: B rows, T positions, P prompts, K answers to a prompt.
Proved by tests/unit/rl/test_advantages.py and tests/reinforce/test_exact_gradient.py.
"""

from __future__ import annotations

import torch
from torch import Tensor

WHITENING_EPSILON = 1e-8
GROUP_EPSILON = 1e-4  # a group whose answers are all equally good has no direction, and not an infinite one


def gae(
    rewards_BT: Tensor, values_BT: Tensor, mask_BT: Tensor, discount: float = 1.0, decay: float = 0.95
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation.

    Args:
        mask_BT: bool, the positions at which a token of the answer is chosen; they follow one another in each row.
        decay: λ; 0 looks one token ahead, 1 to the end.

    Returns:
        advantages and returns [B, T], 0 outside of the mask.
    """
    mask = mask_BT.to(values_BT.dtype)
    advantages_BT = torch.zeros_like(values_BT)
    advantage_B = values_BT.new_zeros(len(values_BT))
    next_value_B = values_BT.new_zeros(len(values_BT))
    for t in reversed(range(values_BT.shape[1])):
        surprise_B = rewards_BT[:, t] + discount * next_value_B - values_BT[:, t]
        advantage_B = (surprise_B + discount * decay * advantage_B) * mask[:, t]
        next_value_B = values_BT[:, t] * mask[:, t]
        advantages_BT[:, t] = advantage_B
    return advantages_BT, (advantages_BT + values_BT) * mask


def shaping(potential_BT: Tensor, mask_BT: Tensor, discount: float = 1.0) -> Tensor:
    """What each token adds to a potential, [B, T].

    Without a discount the sum over an answer is minus its first potential, on which no choice depends: so whatever the
    potential is, the same policy is the best.

    Args:
        potential_BT: of the state in which each token is chosen: it must not know that token.
    """
    potential_BT = torch.where(mask_BT, potential_BT, 0.0)
    return discount * torch.nn.functional.pad(potential_BT[:, 1:], (0, 1)) - potential_BT


def whiten(values_BT: Tensor, mask_BT: Tensor, keep_mean: bool = False) -> Tensor:
    """The values under the mask with variance 1, and mean 0 unless it is kept; 0 elsewhere."""
    chosen = values_BT[mask_BT]
    if not len(chosen):
        return torch.zeros_like(values_BT)
    mean = chosen.mean()
    scaled = (values_BT - mean) * torch.rsqrt(chosen.var(unbiased=False) + WHITENING_EPSILON)
    return torch.where(mask_BT, scaled + mean if keep_mean else scaled, 0.0)


def leave_one_out(scores_PK: Tensor) -> Tensor:
    """RLOO: each score less the mean of the other answers to its prompt, [P, K]."""
    others = scores_PK.shape[1] - 1
    return scores_PK - (scores_PK.sum(dim=1, keepdim=True) - scores_PK) / others


def group_relative(scores_PK: Tensor, divide: bool = True) -> Tensor:
    """GRPO: each score less the mean of its group, divided by the group's deviation unless told otherwise, [P, K]."""
    centred = scores_PK - scores_PK.mean(dim=1, keepdim=True)
    return centred / (scores_PK.std(dim=1, keepdim=True) + GROUP_EPSILON) if divide else centred
