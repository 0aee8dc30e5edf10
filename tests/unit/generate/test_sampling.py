"""Choosing a token: every filter against a plain reference, greedy, and draws that follow the distribution."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from lmcraft.generate.sampling import Sampling, choose, generator


def reference(logits: np.ndarray, seen: set[int], s: Sampling) -> np.ndarray:
    """The distribution that `choose` draws from, written with loops over plain numbers."""
    values = [float(x) for x in logits]
    for token in seen:
        values[token] *= 1 / s.repetition_penalty if values[token] > 0 else s.repetition_penalty
    scaled = [value / s.temperature for value in values]
    highest = max(scaled)
    weights = [math.exp(value - highest) for value in scaled]
    p = [weight / sum(weights) for weight in weights]
    order = sorted(range(len(p)), key=lambda i: (-p[i], i))
    if s.top_k is not None:
        order = order[: s.top_k]
    if s.top_p is not None:
        total, reached, kept = sum(p[i] for i in order), 0.0, []
        for i in order:
            if reached >= s.top_p * total:
                break
            kept.append(i)
            reached += p[i]
        order = kept
    if s.min_p is not None:
        order = [i for i in order if p[i] >= s.min_p * max(p)] or order[:1]
    result = np.zeros(len(p))
    for i in order:
        result[i] = p[i]
    return result / result.sum()


def distribution(logits: np.ndarray, seen: set[int], s: Sampling, points: int = 4000) -> np.ndarray:
    """The distribution of `choose`, by giving it evenly spaced numbers instead of random ones."""

    class Even:
        def __init__(self) -> None:
            self.numbers = iter((np.arange(points) + 0.5) / points)

        def random(self) -> float:
            return next(self.numbers)

    draw, tensor = Even(), torch.from_numpy(logits)
    return np.bincount([choose(tensor, seen, s, draw) for _ in range(points)], minlength=len(logits)) / points


LOGITS = np.random.default_rng(0).normal(size=40) * 0.7
# Seen were: some token, the likeliest, and the likeliest of those with a negative logit.
SEEN = {3, int(LOGITS.argmax()), int(np.where(LOGITS < -0.3, LOGITS, -99).argmax())}
FILTERS = [
    {},
    {"temperature": 0.5},
    {"temperature": 3.0},
    {"top_k": 1},
    {"top_k": 7},
    {"top_k": 4000},
    {"top_p": 0.05},
    {"top_p": 0.9},
    {"top_p": 1.0},
    {"min_p": 0.3},
    {"min_p": 1.0},
    {"min_p": 0.0},
    {"repetition_penalty": 1.7},
    {"repetition_penalty": 0.6, "temperature": 0.8},
    {"top_k": 12, "top_p": 0.8, "min_p": 0.05, "temperature": 1.3, "repetition_penalty": 1.2},
]


@pytest.mark.parametrize("settings", FILTERS, ids=str)
def test_distribution_equals_the_reference(settings):
    """A difference would mean that a sampling option does something else than its name says."""
    sampling, seen = Sampling(**settings), SEEN
    expected = reference(LOGITS, seen, sampling)
    found = distribution(LOGITS, seen, sampling)
    assert np.abs(found - expected).max() < 1.5 / 4000 * 2
    assert ((found > 0) <= (expected > 0)).all()


@pytest.mark.parametrize("settings", [{"top_k": 7}, {"top_p": 0.8}, {"min_p": 0.3}], ids=str)
def test_the_filters_change_something(settings):
    """If this fails, the comparison above cannot tell a filter from none."""
    assert (
        np.abs(reference(LOGITS, set(), Sampling(**settings)) - reference(LOGITS, set(), Sampling())).max()
        > 0.01
    )


def test_draws_follow_the_distribution():
    """A failure would mean that sampled text, and with it every estimate from samples, is biased (chi-square test)."""
    logits = LOGITS[:12]
    expected, draw = reference(logits, set(), Sampling()), generator(7)
    count = 20_000
    tensor, sampling = torch.from_numpy(logits), Sampling()
    found = np.bincount([choose(tensor, set(), sampling, draw) for _ in range(count)], minlength=12)
    statistic = float(((found - count * expected) ** 2 / (count * expected)).sum())
    assert statistic < 31.26  # 0.1 % quantile for 11 degrees of freedom


@given(st.lists(st.floats(-50, 50), min_size=1, max_size=30), st.integers(0, 5))
def test_temperature_zero_is_the_first_largest(values, seed):
    """A failure would mean that greedy generation is neither greedy nor repeatable."""
    token = choose(torch.tensor(values), set(), Sampling(temperature=0.0), generator(seed))
    assert token == int(np.argmax(np.float32(values)))


@given(
    st.lists(st.floats(-1e4, 1e4), min_size=1, max_size=30), st.floats(0, 100), st.integers(1, 40), st.floats(0.001, 1),
    st.floats(0, 1), st.integers(0, 2**63 - 1),
)  # fmt: skip
def test_any_valid_setting_gives_a_token_that_is_allowed(values, temperature, top_k, top_p, min_p, seed):
    """A failure would mean that some corner of the options crashes the server or yields an impossible token."""
    sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, seed=seed)
    token = choose(torch.tensor(values), set(), sampling, generator(seed))
    rounded = torch.tensor(values).tolist()
    rank = sum(value > rounded[token] for value in rounded)
    assert 0 <= token < len(values) and rank < top_k


@pytest.mark.parametrize("temperature", [5e-324, 1e-300, 1e-30, 1e-6])
def test_almost_zero_is_almost_greedy(temperature):
    """A failure would mean that a tiny temperature overflows and draws the least likely token."""
    sampling = Sampling(temperature=temperature)
    assert choose(torch.from_numpy(LOGITS), set(), sampling, generator(0)) == int(LOGITS.argmax())


def test_forbidden_tokens_are_never_drawn():
    """A failure would mean that a grammar or a ban does not hold."""
    logits = torch.full((9,), -math.inf)
    logits[4], logits[7] = 0.3, 0.1
    draw = generator(0)
    found = {
        choose(logits, {1, 4}, Sampling(temperature=2.0, repetition_penalty=1.5), draw) for _ in range(300)
    }
    assert found == {4, 7}


def test_logits_are_not_changed():
    """A failure would mean that the reported log-probabilities are those after the penalty."""
    tensor = torch.from_numpy(LOGITS.copy())
    choose(tensor, {1, 2}, Sampling(repetition_penalty=2.0, temperature=0.5, top_k=3), generator(0))
    assert (tensor.numpy() == LOGITS).all()


def test_one_number_a_step_whatever_the_filters():
    """A failure would mean that an option changes all later draws of a request."""
    for settings in FILTERS:
        draw = generator(3)
        choose(torch.from_numpy(LOGITS), {1}, Sampling(**settings), draw)
        other = generator(3)
        other.random()
        assert draw.random() == other.random()


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": -1}, {"temperature": math.nan}, {"temperature": math.inf}, {"top_k": 0}, {"top_p": 0},
        {"top_p": 1.1}, {"min_p": -0.1}, {"max_new_tokens": 0}, {"max_new_tokens": 10**9}, {"seed": -1},
        {"seed": 2**200}, {"repetition_penalty": 0}, {"repetition_penalty": math.nan}, {"temprature": 1.0},
    ],
    ids=str,
)  # fmt: skip
def test_senseless_settings_are_refused(settings):
    """A failure would mean a crash, or endless work, from one request of a stranger."""
    with pytest.raises(ValidationError):
        Sampling(**settings)
