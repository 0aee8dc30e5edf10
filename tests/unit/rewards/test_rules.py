"""Rewards by rules, in numbers; and how a config names them."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from lmcraft.core.errors import UserError
from lmcraft.rewards import length, match, pattern, reward, vader
from lmcraft.rewards.reward import Answer
from lmcraft.rl.settings import Rewarded


def said(text: str, ids=(), **more) -> Answer:
    return Answer([1], ids, text, **more)


def test_length_in_units_of_its_target():
    """A failure would mean that a weight means another thing for every target."""
    given = length.build(length.Config(target=4), None)
    assert given([said("", [7] * n) for n in (4, 3, 5, 0, 12)]) == [0.0, -0.25, -0.25, -1.0, -2.0]


def test_patterns_match_the_whole_or_are_found():
    """A failure would mean that a form counts as kept when only a part of the answer has it."""
    texts = [said(text) for text in ("42", " 42\n", "it is 42", "", "4\n2")]
    whole = pattern.build(pattern.Config(pattern=r"\d+"), None)
    found = pattern.build(pattern.Config(pattern=r"\d+", whole=False), None)
    assert whole(texts) == [1.0, 1.0, 0.0, 0.0, 0.0] and found(texts) == [1.0, 1.0, 1.0, 0.0, 1.0]
    across = pattern.build(pattern.Config(pattern="4.2"), None)
    assert across(texts)[-1] == 1.0  # a dot matches the end of a line too


def test_only_the_beginning_of_a_long_answer_is_looked_at():
    """A failure would mean that an answer without end takes time without end."""
    found = pattern.build(pattern.Config(pattern="z", whole=False), None)
    most = "a" * (pattern.LONGEST - 1)
    assert found([said(most + "z"), said(most + "az")]) == [1.0, 0.0]


def test_a_pattern_that_is_none_is_told_at_once():
    """A failure would mean that training begins and stops at the first answers."""
    with pytest.raises(ValidationError, match="not a regular expression"):
        pattern.Config(pattern="(")


SAME = [("42", "42"), (" 42.0 ", "42"), ("Paris", "paris\n"), ("4.2e1", "42"), ("nan", "NaN"), ("", "")]
OTHER = [("42", "43"), ("42", "Paris"), ("", "0"), ("forty", "fort"), ("42 apples", "42")]


@pytest.mark.parametrize("given,expected,right", [(*p, True) for p in SAME] + [(*p, False) for p in OTHER])
def test_right_answers(given, expected, right):
    """A failure would mean that a right answer is punished for how it is written, or a wrong one is paid."""
    assert match.same(given, expected) is right
    rewarded = match.build(match.Config(), None)([said(given, expected=expected)])
    assert rewarded == [float(right)]


def test_a_prompt_without_a_right_answer_is_told():
    """A failure would mean that all answers are wrong, and nobody knows why."""
    with pytest.raises(UserError, match="does not say which answer is right"):
        match.build(match.Config(), None)([said("42", question="How many?")])


def test_sentiment_of_words():
    """A failure would mean that upbeat is not what is paid for."""
    pytest.importorskip("vaderSentiment")
    good, bad, nothing, stone = vader.build(vader.Config(), None)(
        [said("What a wonderful, happy day!"), said("A horrible, sad day."), said(""), said("a stone")]
    )
    assert good > 0.8 and bad < -0.6 and nothing == stone == 0.0
    assert vader.compound(["VERY GOOD!!!"])[0] > vader.compound(["good"])[0]


def test_a_config_names_rewards_in_three_ways():
    """A failure would mean that a recipe is misunderstood, or that an echo of it cannot be read again."""
    config = Rewarded(reward=["vader", {"kind": "length", "target": 40, "weight": 0.2}, "runs/reward"])
    assert [one.kind for one in config.reward] == ["vader", "length", "run"]
    assert config.reward[1].weight == 0.2 and config.reward[2].path == "runs/reward"
    assert Rewarded(reward="length").reward == (length.Config(),)
    assert Rewarded(**config.model_dump()) == config


def test_rewards_that_do_not_exist_are_told():
    """A failure would mean a traceback where a list of names helps."""
    with pytest.raises(UserError, match="has no kind"):
        reward.entry({"target": 3})
    with pytest.raises(UserError, match="lenght"):
        reward.entry({"kind": "lenght"})


def test_rewards_are_added_each_with_its_weight():
    """A failure would mean that what is asked for is not what is paid for."""
    both = reward.together(
        [length.Config(target=4, weight=2.0), pattern.Config(pattern="a+", weight=-0.5)], None
    )
    assert both([said("aa", [1, 2]), said("b", [1, 2, 3, 4])]) == [-1.5, 0.0]
    assert reward.together([], None)([said("aa")]) == [0.0] and both([]) == []


class Letters:
    """Stands in for a tokenizer."""

    def decode(self, ids) -> str:
        return "".join(chr(96 + i) for i in ids)


def test_what_beginnings_are_worth():
    """Before each token, with every weight; a failure would mean that a token is told its own reward."""
    both = reward.together(
        [length.Config(target=4, weight=2.0), pattern.Config(pattern="a+", weight=-0.5)], None
    )
    cut = Answer([9], [1, 1, 2], "aab", stopped=False)
    found = reward.along(both, [cut, said("", [])], Letters())
    assert found == [[-2.0, -1.5 - 0.5, -1.0 - 0.5], []]
    heard = []
    reward.along(lambda answers: heard.extend(answers) or [0.0] * len(answers), [cut], Letters())
    assert [(one.text, one.ids, one.stopped) for one in heard] == [
        ("", [], True), ("a", [1], True), ("aa", [1, 1], True),
    ]  # fmt: skip


def test_a_reward_that_is_no_number_stops_training():
    """A failure would mean that one bad score is written into every weight."""
    with pytest.raises(UserError, match="is -inf"):
        both = reward.together([length.Config(weight=1e308, target=1)], None)
        reward.along(both, [said("", [1] * 12)], Letters())
    with pytest.raises(UserError, match="is -inf"):
        reward.together([length.Config(weight=1e308, target=1)], None)([said("", [1] * 12)] * 2)
