"""The best of n: unbiased for every n from one set of samples, and never further away than the bound says."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from lmcraft.rl.best_of_n import expected_score, kl_bound


def test_the_bound_in_numbers():
    """A failure would mean that a policy is said to be nearer, or farther, than it is."""
    known = {1: 0.0, 2: 0.1931, 4: 0.6363, 16: 1.8351, 64: 3.1745}
    for n, right in known.items():
        assert kl_bound(n) == pytest.approx(right, abs=5e-5)


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_it_is_the_mean_over_all_subsets(n):
    """What order statistics give is the mean of the maximum over every choice of n samples, ties and all."""
    scores = torch.tensor([[0.5, -1.0, 3.0, 0.5, 2.0], [1.0, 1.0, 1.0, 4.0, -2.0]])
    right = [
        sum(max(some) for some in itertools.combinations(one, n)) / math.comb(5, n) for one in scores.tolist()
    ]
    assert expected_score(scores, n) == pytest.approx(sum(right) / 2, abs=1e-12)


def test_it_is_unbiased():
    """The mean over many sets lies within 3 standard errors of the exact value: n/(n+1) for uniform scores."""
    scores = torch.rand(4000, 8, generator=torch.Generator().manual_seed(0))
    for n in (2, 4, 8):
        each = torch.tensor([expected_score(one[None], n) for one in scores], dtype=torch.float64)
        error = float(each.std()) / len(each) ** 0.5
        assert abs(float(each.mean()) - n / (n + 1)) < 3 * error


def exact_kl(probabilities: torch.Tensor, n: int) -> float:
    """Of the best of n from the policy, where scores grow with the place: P(best ≤ i) = F(i)ⁿ."""
    total = probabilities.cumsum(0)
    chosen = (total**n).diff(prepend=total.new_zeros(1))
    return float(torch.special.xlogy(chosen, chosen / probabilities).sum())


def test_the_bound_is_never_passed():
    """Equal only where no two answers score the same; a failure would mean that the bound is none."""
    draw = torch.Generator().manual_seed(1)
    few = (torch.randn(12, generator=draw, dtype=torch.float64)).softmax(0)
    many = torch.full((200_000,), 1 / 200_000, dtype=torch.float64)
    for n in (2, 4, 16, 64):
        assert exact_kl(few, n) < kl_bound(n)
        assert exact_kl(many, n) == pytest.approx(kl_bound(n), abs=1e-3)


def test_more_than_there_are_is_refused():
    """An estimate for more answers than were drawn would be invented."""
    with pytest.raises(AssertionError):
        expected_score(torch.ones(1, 3), 4)
