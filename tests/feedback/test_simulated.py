"""Simulated raters: they decide as their settings say, whatever the order of work, and never pass for people."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence

import pytest

from lmcraft.core.errors import UserError
from lmcraft.feedback.guidelines import Guidelines
from lmcraft.feedback.judgement import TIE, Item, Judgement, check
from lmcraft.feedback.rules import rule
from lmcraft.feedback.simulated import Manner, Simulated, logistic, rate_open
from lmcraft.feedback.store import Project, Store

Asked = Callable[..., Item]


def by_last_word(texts: Sequence[str]) -> list[float]:
    """yes is worth 1, no 0."""
    return [float(text.endswith("yes")) for text in texts]


def judged(
    asked: Asked, count: int, texts: tuple[str, ...] = ("yes", "no"), **manner: object
) -> list[Judgement]:
    from dataclasses import replace

    items = [asked(f"{i}?", *texts) for i in range(count)]
    items = [replace(item, key=item.fingerprint()) for item in items]
    return Simulated("robot", by_last_word, Manner(**manner)).judge(items, Guidelines())


def share_of(said: list[Judgement], value: object) -> tuple[float, float]:
    """How often the choice is the value, and the standard error of that."""
    share = sum(one.choice == value for one in said) / len(said)
    return share, math.sqrt(max(share * (1 - share), 1e-4) / len(said))


def test_choices_follow_bradley_and_terry(asked: Asked) -> None:
    """If this failed, the noise of a simulated rater would not be what its temperature says."""
    for temperature in (0.5, 2.0):
        share, error = share_of(judged(asked, 3000, temperature=temperature), 0)
        assert share == pytest.approx(logistic(1 / temperature), abs=3 * error)


def test_the_first_place_is_liked_by_so_many_logits(asked: Asked) -> None:
    """If this failed, an estimate of the liking could not be tested against the truth."""
    said = judged(asked, 3000, texts=("a yes", "b yes"), temperature=1, position_bias=0.8)
    share = sum(one.choice == one.shown[0] for one in said) / len(said)
    assert share == pytest.approx(logistic(0.8), abs=3 * math.sqrt(share * (1 - share) / 3000))
    first, error = share_of(said, 0)
    assert first == pytest.approx(0.5, abs=3 * error), "the order on the screen is not even"


def test_faults_do_what_their_names_say(asked: Asked) -> None:
    """If this failed, a filter for bad raters would be tested on raters who are not bad in that way."""
    assert share_of(judged(asked, 200, temperature=0), 0)[0] == 1
    assert share_of(judged(asked, 200, temperature=0, adversarial=True), 1)[0] == 1
    share, error = share_of(judged(asked, 3000, temperature=0, lazy=0.4), 0)
    assert share == pytest.approx(0.6 + 0.4 / 2, abs=3 * error)
    assert share_of(judged(asked, 50, temperature=1, tie_band=1.5), TIE)[0] == 1
    assert share_of(judged(asked, 50, texts=("a yes", "b yes"), temperature=0), TIE)[0] == 1


def test_a_ranking_is_drawn_as_plackett_and_luce_say(asked: Asked) -> None:
    """If this failed, rankings would follow another model than choices."""
    said = judged(asked, 4000, texts=("a yes", "b no", "c no"), temperature=1)
    first = Counter(one.ranking[0] for one in said)[0] / len(said)
    assert first == pytest.approx(math.e / (math.e + 2), abs=3 * math.sqrt(0.25 / 4000))


def test_the_order_of_work_changes_nothing(asked: Asked) -> None:
    """If this failed, the same experiment would give other ratings after an interruption."""
    items = [asked(f"{i}?", "a yes", "b no") for i in range(20)]
    robot = Simulated("robot", by_last_word, Manner(lazy=0.5, seed=3))
    forwards, backwards = robot.judge(items, Guidelines()), robot.judge(items[::-1], Guidelines())
    assert forwards == backwards[::-1]
    assert forwards != Simulated("other", by_last_word, Manner(lazy=0.5, seed=3)).judge(items, Guidelines())
    assert forwards != Simulated("robot", by_last_word, Manner(lazy=0.5, seed=4)).judge(items, Guidelines())


def test_scores_lie_on_the_scale_of_each_criterion(asked: Asked) -> None:
    """If this failed, simulated scores would be refused, or stand on another scale than people's."""
    guidelines = Guidelines.model_validate({"criteria": [{"name": "a"}, {"name": "b", "low": 0, "high": 1}]})
    item = asked("?", "yes", "no")
    for manner, expected in ((Manner(), (5, 1)), (Manner(adversarial=True), (1, 5))):
        (said,) = Simulated("robot", by_last_word, manner, unit=float).judge([item], guidelines)
        assert (said.scores[0]["a"], said.scores[1]["a"]) == expected
        check(said, item, guidelines)
    (lazy,) = Simulated("robot", by_last_word, Manner(lazy=1)).judge([item], guidelines)
    check(lazy, item, guidelines)


def test_rules_measure_what_they_say() -> None:
    """If this failed, "upbeat" or "long" would mean something else."""
    pytest.importorskip("vaderSentiment")
    upbeat, length, pattern = rule("vader"), rule("length"), rule("regex:[0-9]{3}")
    good, bad = upbeat.reward(["This is wonderful, I love it!", "This is horrible, I hate it."])
    assert good > 0.5 > upbeat.unit(bad) and upbeat.unit(good) > 0.75
    short, long = length.reward(["a", "a " * 50])
    assert short < long == 0.5 and pattern.reward(["call 110", "call 11"]) == [1.0, 0.0]
    for wrong, what in (
        ("vadr", "did you mean 'vader'"),
        ("regex:(", "no regular expression"),
        ("regex", "no rule"),
    ):
        with pytest.raises(UserError, match=what):
            rule(wrong)


def test_an_interrupted_simulation_goes_on_and_adds_nothing_twice(light: Store, project: Project) -> None:
    """If this failed, running a simulation again would double its votes."""
    manner = Manner(seed=1)
    robot = light.rater("robot", simulated=True, settings=manner.model_dump())
    simulated = Simulated("robot", by_last_word, manner)
    assert rate_open(project, robot, simulated) == {"rated": 5, "nothing_to_say": 0}
    assert rate_open(project, robot, simulated) == {"rated": 0, "nothing_to_say": 0}
    ratings = project.snapshot(history=True).ratings
    assert len(ratings) == 5 and all(rating.simulated and rating.judgement.scores for rating in ratings)


def test_one_answer_without_criteria_says_nothing(light: Store, asked: Asked) -> None:
    """If this failed, an item that cannot be compared would stop a simulation."""
    project = light.create("single", Guidelines())
    project.add([asked("?", "only")], {})
    robot = light.rater("robot", simulated=True)
    assert rate_open(project, robot, Simulated("robot", by_last_word)) == {"rated": 0, "nothing_to_say": 1}


@pytest.mark.parametrize("values", [[1.0], [1.0, float("nan")], [1.0, float("inf")]])
def test_a_reward_that_is_no_number_is_refused(asked: Asked, values: list[float]) -> None:
    """If this failed, the order of answers would be that of an accident, and look like an opinion."""
    with pytest.raises(UserError, match="one finite number"):
        Simulated("robot", lambda _: values).judge([asked()], Guidelines())
