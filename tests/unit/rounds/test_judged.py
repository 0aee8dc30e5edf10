"""What is said of a round: the win rate, whether chance explains a difference, when the proxy is believed too much."""

from __future__ import annotations

import pytest

from lmcraft.data.records import Message
from lmcraft.feedback.judgement import BOTH_BAD, TIE, Answer, Item, Judgement, Rating
from lmcraft.rounds.judged import over_optimised, sign_flip, win_rate


def rating(item: str, choice, action="rate") -> Rating:
    return Rating(f"k-{item}", item, "ann", False, action, Judgement(choice=choice), 1, 1, "now")


def items(count: int) -> dict[str, Item]:
    """The policy's answer stands first in every second item."""
    sides = (Answer("new", "policy"), Answer("old", "base"))
    return {
        str(n): Item((Message("user", str(n)),), sides if n % 2 else sides[::-1], key=str(n))
        for n in range(count)
    }


def test_the_win_rate_knows_who_wrote_what():
    """A failure would mean that places are counted instead of models: half would always win."""
    said = [rating("0", 1), rating("1", 0), rating("2", 0), rating("3", TIE), rating("4", BOTH_BAD)]
    found = win_rate([*said, rating("5", None, "skip")], items(6), "policy", alike=1)
    assert found["win_rate"] == pytest.approx((1 + 1 + 0 + 0.5 + 0.5 + 0.5) / 6) and found["votes"] == 5
    assert win_rate([], items(2), "policy", alike=0) == {"win_rate": None, "votes": 0, "half_width": None}


def test_sign_flips_tell_a_difference_from_noise():
    """A failure would mean that chance is reported as progress, or progress as chance."""
    assert sign_flip([1.0] * 20) < 1e-3
    assert sign_flip([1.0, -1.0] * 10) > 0.5
    assert sign_flip([0.0] * 5) == 1.0
    assert sign_flip([1.0] * 3) == pytest.approx(2 / 8, abs=0.02)  # all 8 signs: two are as far away


@pytest.mark.parametrize(
    ("now", "before", "too_far"),
    [
        ({"proxy": [0.0, 2.0], "gold": [0.1, 0.3]}, None, False),
        ({"proxy": [0.0, 2.0], "gold": [0.1, 0.0]}, None, True),
        ({"proxy": [0.0, 2.0], "gold": [0.1, 0.3]}, {"gold": [0.1, 0.5]}, True),
        ({"proxy": [0.0, -1.0], "gold": [0.1, 0.0]}, None, False),
        ({"proxy": [0.0, 2.0], "gold": None, "win_rate": 0.3, "half_width": 0.1}, None, True),
        ({"proxy": [0.0, 2.0], "gold": None, "win_rate": 0.45, "half_width": 0.1}, None, False),
        ({"proxy": [0.0, 2.0], "gold": None, "win_rate": 0.5, "half_width": 0.05}, {"win_rate": 0.7}, True),
        ({"proxy": [0.0, 2.0], "gold": None, "win_rate": None, "half_width": None}, None, False),
    ],
)  # fmt: skip
def test_a_pleased_proxy_and_displeased_raters_are_noticed(now, before, too_far):
    """A failure would mean that a policy which fools its reward model is praised, or a good one is warned about."""
    assert (over_optimised(now, before) is not None) == too_far
