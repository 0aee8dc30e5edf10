"""Credit: hand cases, an implementation that shares nothing with ours, and what padding and the end must not do."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lmcraft.rl import advantages


def row(*numbers: float) -> torch.Tensor:
    return torch.tensor([numbers], dtype=torch.float64)


def close(found, right) -> None:
    torch.testing.assert_close(found, torch.as_tensor(right, dtype=found.dtype), rtol=0, atol=1e-12)


def test_gae_by_hand():
    """Another number would mean that tokens are credited with what they did not do."""
    mask = torch.ones(1, 3, dtype=torch.bool)
    found, returns = advantages.gae(row(0, 0, 1), row(0.5, 0.5, 0.5), mask, 1.0, 0.95)
    close(found, [[0.45125, 0.475, 0.5]])
    close(returns, [[0.95125, 0.975, 1.0]])


def test_gae_by_hand_with_a_discount():
    """γ stands before the next value and in the decay, and nowhere else."""
    mask = torch.ones(1, 3, dtype=torch.bool)
    found, _ = advantages.gae(row(0, 0, 1), row(0.5, 0.6, 0.7), mask, 0.9, 0.5)
    close(found, [[0.04 + 0.45 * (0.03 + 0.45 * 0.3), 0.03 + 0.45 * 0.3, 0.3]])


def test_nothing_is_expected_behind_the_end():
    """A failure would mean that a short answer is credited with what stands in the padding behind it."""
    mask = torch.tensor([[False, True, True, False], [True, True, True, True]])
    rewards = torch.tensor([[9.0, 0, 1, 9], [0, 0, 0, 1]], dtype=torch.float64)
    values = torch.tensor([[9.0, 0.5, 0.5, 9], [0.1, 0.2, 0.3, 0.4]], dtype=torch.float64)
    both, returns = advantages.gae(rewards, values, mask)
    alone, _ = advantages.gae(rewards[:1, 1:3], values[:1, 1:3], mask[:1, 1:3])
    close(both[0], [0.0, *alone[0].tolist(), 0.0])
    close(both[0, 1:3], [0.475, 0.5])
    close(returns[0], [0.0, 0.975, 1.0, 0.0])


def test_rows_without_an_answer_have_no_credit():
    """A number there would be trained on, in a row that says nothing."""
    nothing = torch.zeros(2, 3, dtype=torch.bool)
    found, returns = advantages.gae(torch.ones(2, 3), torch.ones(2, 3), nothing)
    assert not found.any() and not returns.any()
    assert not advantages.whiten(torch.ones(2, 3), nothing).any()


numbers = st.floats(-5, 5)
answers = st.lists(st.tuples(numbers, numbers), min_size=1, max_size=7)


@given(answers, st.floats(0.1, 1), st.floats(0, 1))
def test_gae_is_the_sum_that_its_paper_writes(answer, discount, decay):
    """A_t = Σ_l (γλ)^l δ_{t+l}, forwards and without recursion: an implementation that shares nothing with ours."""
    rewards, values = ([pair[n] for pair in answer] for n in (0, 1))
    after = [*values[1:], 0.0]
    deltas = [r + discount * n - v for r, n, v in zip(rewards, after, values, strict=True)]
    right = [
        sum((discount * decay) ** (later - t) * deltas[later] for later in range(t, len(deltas)))
        for t in range(len(deltas))
    ]
    mask = torch.ones(1, len(answer), dtype=torch.bool)
    found, _ = advantages.gae(row(*rewards), row(*values), mask, discount, decay)
    close(found, [right])


@given(answers, st.floats(0.1, 1))
def test_the_two_ends_of_gae(answer, discount):
    """λ = 0 is the error of one step, λ = 1 the discounted rest of the rewards less the value."""
    rewards, values = ([pair[n] for pair in answer] for n in (0, 1))
    mask = torch.ones(1, len(answer), dtype=torch.bool)
    short, _ = advantages.gae(row(*rewards), row(*values), mask, discount, 0.0)
    long, returns = advantages.gae(row(*rewards), row(*values), mask, discount, 1.0)
    rest = [sum(r * discount**n for n, r in enumerate(rewards[t:])) for t in range(len(rewards))]
    ahead = [*values[1:], 0.0]
    close(short, [[r + discount * n - v for r, n, v in zip(rewards, ahead, values, strict=True)]])
    close(long, [[total - v for total, v in zip(rest, values, strict=True)]])
    close(returns, [rest])


def test_shaping_by_hand():
    """What is gained with a token is its own; a failure would mean that it is that of another, or counts at the end."""
    mask = torch.tensor([[False, True, True, True, False]])
    close(advantages.shaping(row(7, 1, 4, 3, 9), mask), [[1.0, 3.0, -1.0, -3.0, 0.0]])
    close(advantages.shaping(row(7, 1, 4, 3, 9), mask, 0.5), [[0.5, 1.0, -2.5, -3.0, 0.0]])


def test_whitening_by_hand():
    """The variance is the biased one; a failure would mean another size of step than the papers have."""
    mask = torch.ones(1, 4, dtype=torch.bool)
    found = advantages.whiten(row(1, 2, 3, 6), mask)
    deviation = (3.5 + 1e-8) ** 0.5  # Σ (x − 3)² / 4
    close(found, [[-2 / deviation, -1 / deviation, 0.0, 3 / deviation]])
    kept = advantages.whiten(row(1, 2, 3, 6), mask, keep_mean=True)
    close(kept, [[3 - 2 / deviation, 3 - 1 / deviation, 3.0, 3 + 3 / deviation]])


def test_whitening_sees_no_padding():
    """A failure would mean that longer padding, from longer answers of others, changes what an answer teaches."""
    mask = torch.tensor([[True, True, False], [True, False, False]])
    values = torch.tensor([[1.0, 2.0, 77.0], [6.0, -50.0, 3.0]], dtype=torch.float64)
    found = advantages.whiten(values, mask)
    close(found[mask], advantages.whiten(row(1, 2, 6), torch.ones(1, 3, dtype=torch.bool))[0])
    assert not found[~mask].any()


def test_leaving_one_out_by_hand():
    """A failure would mean that an answer is compared with itself too, which makes every advantage smaller."""
    close(advantages.leave_one_out(row(1, 2, 6)), [[-3.0, -1.5, 4.5]])
    close(advantages.leave_one_out(row(1, 5)), [[-4.0, 4.0]])


def test_groups_are_compared_within_themselves():
    """A failure would mean that an easy prompt, where all is well, outweighs a difficult one."""
    scores = torch.tensor([[1.0, 3.0], [100.0, 108.0], [7.0, 7.0]], dtype=torch.float64)
    found = advantages.group_relative(scores)
    one, two = 2**0.5, 32**0.5
    right = [
        [-1 / (one + 1e-4), 1 / (one + 1e-4)],
        [-4 / (two + 1e-4), 4 / (two + 1e-4)],
        [0.0, 0.0],
    ]
    close(found, right)
    close(advantages.group_relative(scores, divide=False), [[-1.0, 1.0], [-4.0, 4.0], [0.0, 0.0]])


@pytest.mark.parametrize("method", [advantages.leave_one_out, advantages.group_relative])
def test_a_constant_more_changes_no_comparison(method):
    """Rewards are fixed up to a constant; a failure would mean that it matters which."""
    scores = torch.tensor([[0.3, -1.0, 2.0]], dtype=torch.float64)
    torch.testing.assert_close(method(scores + 5), method(scores), rtol=0, atol=1e-12)
    assert float(method(scores).sum()) == pytest.approx(0, abs=1e-12)
