"""Judgements: what does not fit the question is refused, what fits comes back from JSON as it was."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from lmcraft.core.errors import UserError
from lmcraft.feedback.guidelines import Guidelines
from lmcraft.feedback.judgement import BOTH_BAD, TIE, Item, Judgement, check, check_comment

GUIDELINES = Guidelines.model_validate({"criteria": [{"name": "safety"}]})


@pytest.mark.parametrize(
    "said",
    [
        Judgement({0: {"safety": 5}, 1: {"safety": 1}}, 0, (), "fine", (1, 0), 2.5),
        Judgement(choice=TIE), Judgement(choice=BOTH_BAD, shown=(0, 1)), Judgement(ranking=(1, 0)),
    ],
)  # fmt: skip
def test_judgements_survive_json(asked: Callable[..., Item], said: Judgement) -> None:
    """If this failed, a judgement would change on its way through a file or the store."""
    check(said, asked(), GUIDELINES)
    assert Judgement.of(json.loads(json.dumps(said.plain()))) == said


@pytest.mark.parametrize(
    ("said", "what"),
    [
        (Judgement(), "says nothing"),
        (Judgement(comment="only words"), "says nothing"),
        (Judgement({2: {"safety": 1}}), "no answer 2"),
        (Judgement({0: {"safety": 6}}), "from 1 to 5"),
        (Judgement({0: {"safety": True}}), "from 1 to 5"),
        (Judgement({0: {"beauty": 1}}), "no criterion 'beauty'"),
        (Judgement(choice=2), "the choice is 2"),
        (Judgement(choice=True), "the choice is True"),
        (Judgement(choice="left"), "known are 0, 1, tie, both bad"),
        (Judgement(ranking=(0, 0)), "every answer once"),
        (Judgement(choice=0, shown=(0,)), "every answer once"),
        (Judgement(choice=0, seconds=-1), "seconds"),
        (Judgement(choice=0, seconds=float("inf")), "seconds"),
    ],
)
def test_what_does_not_fit_is_refused(asked: Callable[..., Item], said: Judgement, what: str) -> None:
    """If this failed, a score off its scale would move every mean that it enters."""
    with pytest.raises(UserError, match=what):
        check(said, asked(), GUIDELINES)


def test_a_choice_needs_two_answers(asked: Callable[..., Item]) -> None:
    """If this failed, "the better one" of three would be kept, and of the third nothing would be known."""
    with pytest.raises(UserError, match="between two"):
        check(Judgement(choice=0), asked("?", "a", "b", "c"), GUIDELINES)


def test_comments_can_be_written_out_again() -> None:
    """If this failed, one comment could spoil every later export."""
    check_comment("fine \0 🐈")
    for comment, what in (("x" * 10_001, "too long"), ("\ud800", "UTF-8")):
        with pytest.raises(UserError, match=what):
            check_comment(comment)


def test_a_ranking_prefers_in_every_pair() -> None:
    """If this failed, a ranking would say something else as preferences than as an order."""
    assert Judgement(ranking=(2, 0, 1)).preferences() == {(0, 1): 0, (0, 2): 2, (1, 2): 2}
    assert Judgement(choice=TIE).preferences() == {(0, 1): TIE}
    assert Judgement({0: {"safety": 1}}).preferences() == {}


@pytest.mark.parametrize("value", [{"chioce": 1}, {"scores": 3}, {"scores": {"a": {}}}, {"ranking": 5}])
def test_another_form_is_a_value_error(value: dict) -> None:
    """If this failed, a damaged line of a file would be read as something else, or as a bug."""
    with pytest.raises(ValueError):
        Judgement.of(value)
