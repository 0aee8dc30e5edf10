"""Losses of preferences, from log-probabilities of whole answers; each is the loss of one pair (or answer), [B].

    c, r: log π − log ref of the better and the worse answer;   h = c − r

    sigmoid   −log σ(βh − m)                         DPO, Rafailov et al., arXiv 2305.18290; m = 0, or a margin (ODPO,
                                                     Amini et al., arXiv 2402.10571); smoothed with ε (cDPO, Mitchell
                                                     2023): (1−ε)·(−log σ(βh − m)) + ε·(−log σ(m − βh))
    ipo       (h − 1/(2β))²                          Azar et al., arXiv 2310.12036; sums over tokens, as there
    kto       1 − σ(β(x − z)) or 1 − σ(β(z − x))     Ethayarajh et al., arXiv 2402.01306; x = log π − log ref of a
                                                     good or a bad answer, z an estimate of KL without gradient
    orpo      −p_c − β·log σ(log odds_c − log odds_r)    Hong et al., arXiv 2403.07691; p: mean log π of a token
    simpo     −log σ(β(p_c − p_r) − m)               Meng et al., arXiv 2405.14734

1. DPO sums log-probabilities over tokens, ORPO and SimPO take means: it is in their definition.
2. At the optimum of DPO, h is 1/β times the difference of rewards; so β is the strength of the pull to the reference.

Legend: B rows.
Proved by tests/unit/train/test_preference.py.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def sigmoid(h_B: Tensor, beta: float, margin: Tensor | float = 0.0, smoothing: float = 0.0) -> Tensor:
    """−log of the chance that the better answer wins; ln 2 where policy and reference are equal."""
    logit_B = beta * h_B - margin
    loss_B = -F.logsigmoid(logit_B)
    return loss_B if not smoothing else (1 - smoothing) * loss_B - smoothing * F.logsigmoid(-logit_B)


def ipo(h_B: Tensor, beta: float) -> Tensor:
    """The squared distance of h from 1/(2β), at which it stops, where DPO would go on for ever."""
    return (h_B - 1 / (2 * beta)) ** 2


def kto(ratio_B: Tensor, good_B: Tensor, baseline_B: Tensor, beta: float) -> Tensor:
    """The value that a good answer lacks above the baseline, or a bad one below it; 1/2 at the start.

    Args:
        ratio_B: log π − log ref of each answer.
        good_B: which answers are good.
        baseline_B: z, without gradient, at least 0.
    """
    distance_B = beta * (ratio_B - baseline_B.detach())
    return 1 - torch.sigmoid(torch.where(good_B, distance_B, -distance_B))


def orpo(better_B: Tensor, worse_B: Tensor, beta: float) -> Tensor:
    """Fine-tuning on the better answer, and the odds ratio; needs no reference.

    Args:
        better_B, worse_B: mean log π of a token, below 0.
    """
    odds_B = _log_odds(better_B) - _log_odds(worse_B)
    return -better_B - beta * F.logsigmoid(odds_B)


def _log_odds(mean_B: Tensor) -> Tensor:
    """log(p / (1 − p)) from log p; p is kept from 1, where it has no number."""
    safe_B = mean_B.clamp(max=-torch.finfo(mean_B.dtype).eps)
    return safe_B - torch.log(-torch.expm1(safe_B))


def simpo(better_B: Tensor, worse_B: Tensor, beta: float, margin: Tensor | float) -> Tensor:
    """Like DPO on mean log π of a token, without a reference, with a distance to keep."""
    return -F.logsigmoid(beta * (better_B - worse_B) - margin)
