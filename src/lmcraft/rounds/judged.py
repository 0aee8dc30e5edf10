"""How much better a policy has become: by its reward model, by those who rate, and by how many held-out prompts.

    win rate = (held-out prompts where the policy's answer is preferred to the base's + half of the ties) / all
    p        = share of random swaps of base and policy whose mean difference is as large     (sign-flip test)

Over-optimisation: the reward model (the proxy) rises while those who rate, or the rule that they follow (gold), see the
policy getting worse (Gao et al., arXiv 2210.10760).

Proved by tests/unit/rounds/test_judged.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import numpy as np

from ..feedback.judgement import Item, Rating

FLIPS = 10_000


def win_rate(ratings: Sequence[Rating], items: Mapping[str, Item], policy: str, alike: int) -> dict[str, Any]:
    """Of the policy against the other model of each item, with half the width of a 95 % interval.

    Args:
        alike: prompts to which both gave the same answer: ties that nobody had to judge.
    """
    values = [0.5] * alike
    for rating in ratings:
        choice = rating.judgement.choice
        if rating.action != "rate" or choice is None or rating.item not in items:
            continue
        wins = isinstance(choice, int) and items[rating.item].answers[choice].model == policy
        values.append(float(wins) if isinstance(choice, int) else 0.5)
    if not values:
        return {"win_rate": None, "votes": 0, "half_width": None}
    spread = float(np.std(values)) / len(values) ** 0.5
    return {"win_rate": fmean(values), "votes": len(values) - alike, "half_width": 1.96 * spread}


def sign_flip(differences: Sequence[float], seed: int = 0) -> float:
    """The probability of a mean difference this large, or larger, if base and policy were the same (two-sided)."""
    if not any(differences):
        return 1.0
    values = np.asarray(differences)
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], size=(FLIPS, len(values)))
    means = np.abs((signs * values).mean(axis=1))
    return float((1 + (means >= abs(values.mean()) - 1e-12).sum()) / (1 + FLIPS))


def over_optimised(now: Mapping[str, Any], before: Mapping[str, Any] | None) -> str | None:
    """Why this round went too far, or None.

    Args:
        now, before: measures of this and the last round: `proxy` and `gold` as [base, policy], `win_rate`.
    """
    base, policy = now["proxy"]
    if policy <= base:
        return None
    rose = f"the reward model's score rose by {policy - base:.2f}"
    if now["gold"] is not None:
        best = before["gold"][1] if before is not None else now["gold"][0]
        if now["gold"][1] < best:
            return f"{rose}, but gold fell from {best:.3f} to {now['gold'][1]:.3f}"
        return None
    rate, last = now["win_rate"], 0.5 if before is None else before["win_rate"]
    if rate is not None and last is not None and rate + (now["half_width"] or 0.0) < last:
        return f"{rose}, but the win rate fell from {last:.0%} to {rate:.0%}"
    return None
