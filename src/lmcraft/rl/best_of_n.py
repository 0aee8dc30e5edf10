"""The best of n answers: what it would score, and how far it is from the policy, for every n from one set of samples.

    score(n)  = Σ_i s_(i) [C(i, n) − C(i−1, n)] / C(N, n),  s_(1) ≤ … ≤ s_(N)      unbiased, by order statistics
    KL(n)     ≤ log n − (n − 1)/n                          equal where no two answers have the same score

Nakano et al., arXiv 2112.09332 (the estimator); Beirami et al., 2401.01879 (the bound).

Legend: P prompts, K answers to a prompt.
Proved by tests/unit/rl/test_best_of_n.py.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def expected_score(scores_PK: Tensor, n: int) -> float:
    """The mean score of the best of `n` answers to each prompt, from K ≥ n samples of each."""
    K = scores_PK.shape[1]
    assert 1 <= n <= K, f"{n} of {K} answers"
    sorted_PK = scores_PK.double().sort(dim=1).values
    chances = [(math.comb(i, n) - math.comb(i - 1, n)) / math.comb(K, n) for i in range(1, K + 1)]
    return float((sorted_PK * torch.tensor(chances, dtype=torch.float64)).sum(dim=1).mean())


def kl_bound(n: int) -> float:
    """The most that the best of n is away from the policy, in nats."""
    return math.log(n) - (n - 1) / n
