"""The clipped losses and the estimators of the KL divergence, in numbers that can be checked by hand."""

from __future__ import annotations

import math

import pytest
import torch

from lmcraft.rl import objective


def numbers(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


# A, ratio → loss, and whether a gradient flows; ε = 0.2.
CLIPS = [(1, 1.5, -1.2, False), (1, 0.5, -0.5, True), (-1, 1.5, 1.5, True), (-1, 0.5, 0.8, False)]


def test_the_clip_by_hand():
    """A failure would mean that steps are held back where they should go on, or the other way round."""
    for advantage, ratio, loss, flows in CLIPS:
        new = numbers(math.log(ratio)).requires_grad_()
        found = objective.surrogate(new, numbers(0.0), numbers(advantage), 0.2)
        assert found.item() == pytest.approx(loss, abs=1e-12)
        found.sum().backward()
        assert float(new.grad) == pytest.approx(-advantage * ratio if flows else 0.0, abs=1e-12)


def test_without_a_clip_nothing_is_held_back():
    """A failure would mean that methods which do not clip do."""
    found = objective.surrogate(numbers(math.log(3.0)), numbers(0.0), numbers(1.0), None)
    assert found.item() == pytest.approx(-3.0)


def test_the_clip_of_values_by_hand():
    """It is around the value of the rollout, and the larger of both errors counts."""
    # value now, value then, return → ½ max of the two squares, and the gradient; clip 0.2
    cases = [
        (1.0, 0.0, 0.0, 0.5, 1.0),  # too far from then, and wrong: its own error is larger
        (1.0, 0.0, 1.0, 0.32, 0.0),  # right, but too far from then: held at 0.2, no gradient
        (0.1, 0.0, 1.0, 0.405, -0.9),  # near enough
        (-1.0, 0.0, -1.0, 0.32, 0.0),
    ]
    for now, then, target, loss, slope in cases:
        value = numbers(now).requires_grad_()
        found = objective.value_loss(value, numbers(then), numbers(target), 0.2)
        assert found.item() == pytest.approx(loss, abs=1e-12)
        found.sum().backward()
        assert value.grad.item() == pytest.approx(slope, abs=1e-12)
    assert float(objective.value_loss(numbers(3.0), numbers(0.0), numbers(1.0), None)) == pytest.approx(2.0)


def distributions() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    policy, reference = torch.randn(2, 50, 6, dtype=torch.float64).log_softmax(dim=-1)
    return policy, reference


def test_estimators_in_expectation():
    """k1 and k3 give the divergence exactly, k2 does not; a failure would mean a KL that is reported wrong."""
    policy, reference = distributions()
    right = (policy.exp() * (policy - reference)).sum(dim=1)
    expected = {
        name: (policy.exp() * getattr(objective, name)(policy, reference)).sum(dim=1)
        for name in ("k1", "k2", "k3")
    }
    torch.testing.assert_close(expected["k1"], right, rtol=0, atol=1e-12)
    torch.testing.assert_close(expected["k3"], right, rtol=0, atol=1e-12)
    assert float((expected["k2"] - right).abs().min()) > 1e-3


def test_signs_of_estimators():
    """k1 may be negative for a sample; k2 and k3 never are, and all are 0 where nothing differs."""
    policy, reference = distributions()
    assert float(objective.k1(policy, reference).min()) < 0
    assert float(objective.k2(policy, reference).min()) >= 0
    assert float(objective.k3(policy, reference).min()) >= 0
    for estimator in (objective.k1, objective.k2, objective.k3):
        assert not estimator(policy, policy).any()


def test_gradients_of_estimators():
    """As a loss k1 has no expected gradient, k2 has the right one where the draw is fixed, k3 another (trap 39)."""
    policy, reference = distributions()
    logits = policy[:1].clone().requires_grad_()

    def slope(make) -> torch.Tensor:
        logs = logits.log_softmax(dim=-1)
        return torch.autograd.grad(make(logs).sum(), logits)[0]

    right = slope(lambda logs: logs.exp() * (logs - reference[:1]))
    drawn = policy[:1].exp()
    close = {"rtol": 0, "atol": 1e-12}
    zeros = torch.zeros_like(right)
    torch.testing.assert_close(slope(lambda logs: drawn * objective.k1(logs, reference[:1])), zeros, **close)
    torch.testing.assert_close(slope(lambda logs: drawn * objective.k2(logs, reference[:1])), right, **close)
    assert float((slope(lambda logs: drawn * objective.k3(logs, reference[:1])) - right).abs().max()) > 1e-2


@pytest.mark.parametrize(
    "kl,factor",
    [(12.0, 1.01024), (6.0, 1.0), (0.0, 1 - 0.01024), (6.6, 1.00512), (60.0, 1.01024), (-3.0, 1 - 0.01024)],
)
def test_the_coefficient_follows_the_divergence(kl, factor):
    """Target 6, 512 episodes, horizon 10,000; a failure would mean a leash that tightens too fast or never."""
    assert objective.adapted(0.2, kl, 6.0, 512, 10_000) == pytest.approx(0.2 * factor, rel=1e-12)
