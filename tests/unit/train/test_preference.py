"""Losses of preferences against hand values and against the formulas of their papers, written out once more."""

from __future__ import annotations

import math

import pytest
import torch

from lmcraft.train import preference

DRAW = torch.Generator().manual_seed(0)
C, R = (torch.randn(50, generator=DRAW, dtype=torch.float64) for _ in range(2))
BELOW = [-(1e-3 + torch.rand(50, generator=DRAW, dtype=torch.float64) * 3) for _ in range(2)]


def test_dpo_begins_at_ln_2_and_has_hand_values():
    """A failure would mean another loss than that of Rafailov et al."""
    assert float(preference.sigmoid(torch.zeros(1), 0.1)) == pytest.approx(math.log(2), abs=1e-7)
    assert float(preference.sigmoid(torch.tensor([10.0]), 0.1)) == pytest.approx(0.3132617)  # ln(1 + e^-1)
    assert float(preference.sigmoid(torch.tensor([10.0]), 0.1, margin=1.0)) == pytest.approx(math.log(2))
    smoothed = float(preference.sigmoid(torch.tensor([10.0]), 0.1, smoothing=0.2))
    assert smoothed == pytest.approx(0.8 * 0.3132617 + 0.2 * 1.3132617)


def test_smoothing_moves_the_best_h_to_the_odds_of_a_right_label():
    """A failure would mean that cDPO trusts wrong labels more, or less, than it was told to."""
    h = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    best = math.log(0.9 / 0.1) / 0.5
    (slope,) = torch.autograd.grad(preference.sigmoid(h + best, 0.5, smoothing=0.1).sum(), h)
    assert abs(float(slope)) < 1e-12


def test_ipo_stops_at_its_distance():
    """A failure would mean that IPO runs away as DPO does on pairs of which all raters say the same."""
    torch.testing.assert_close(preference.ipo(C - R, 0.25), ((C - R) - 2.0) ** 2)
    assert float(preference.ipo(torch.tensor([2.0]), 0.25)) == 0


def test_kto_is_the_value_function_of_its_paper():
    """A failure would mean that losses weigh like gains, or that the baseline is trained."""
    good = torch.arange(50) % 2 == 0
    z = torch.full((50,), 0.3, dtype=torch.float64, requires_grad=True)
    x = C.clone().requires_grad_()
    found = preference.kto(x, good, z, 0.4)
    expected = [
        1 - 1 / (1 + math.exp(-(0.4 * (float(v) - 0.3)) if g else 0.4 * (float(v) - 0.3)))
        for v, g in zip(C, good, strict=True)
    ]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=0)
    found.sum().backward()
    assert z.grad is None and bool((x.grad[good] < 0).all()) and bool((x.grad[~good] > 0).all())
    assert bool(
        (preference.kto(torch.zeros(2), torch.tensor([True, False]), torch.zeros(2), 0.1) == 0.5).all()
    )


def test_orpo_is_its_formula_and_stays_finite():
    """A failure would mean that an answer of certain tokens gives a loss that is not finite and stops training."""
    better, worse = BELOW
    odds = torch.log(better.exp() / (1 - better.exp())) - torch.log(worse.exp() / (1 - worse.exp()))
    expected = -better + 0.3 * torch.log(1 + torch.exp(-odds))
    torch.testing.assert_close(preference.orpo(better, worse, 0.3), expected, rtol=1e-10, atol=1e-12)
    sure = torch.zeros(1, requires_grad=True)
    loss = preference.orpo(sure, torch.tensor([-1.0]), 0.3)
    loss.backward()
    assert loss.isfinite() and sure.grad.isfinite()


def test_simpo_is_its_formula():
    """A failure would mean that SimPO keeps another distance than it was told to."""
    better, worse = BELOW
    expected = torch.log(1 + torch.exp(-(2.0 * (better - worse) - 0.5)))
    torch.testing.assert_close(preference.simpo(better, worse, 2.0, 0.5), expected, rtol=1e-12, atol=1e-14)
    assert float(preference.simpo(torch.zeros(1), torch.zeros(1), 2.0, 0.0)) == pytest.approx(math.log(2))
