"""Reliability: a known liking for the first place is found again, and bad raters are told from good ones."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import pytest

from lmcraft.feedback import reliability
from lmcraft.feedback.guidelines import Guidelines
from lmcraft.feedback.judgement import Item, Judgement, Rating, Snapshot
from lmcraft.feedback.preferences import Config, build
from lmcraft.feedback.simulated import Manner, Simulated

Asked = Callable[..., Item]


def world(asked: Asked, count: int, raters: dict[str, Manner], spread: float = 0.0) -> Snapshot:
    """Items whose first answer is worth more by 0.5 or so, judged by every rater."""
    draw = random.Random(11)
    items = {}
    for number in range(count):
        worth = (draw.gauss(0.5, spread), draw.gauss(0, spread))
        item = asked(f"{number}?", *(f"{value:.6f}" for value in worth))
        items[item.fingerprint()] = replace(item, key=item.fingerprint())
    ratings = []
    for name, manner in raters.items():
        robot = Simulated(name, lambda texts: [float(text) for text in texts], manner)
        for item, said in zip(items.values(), robot.judge(list(items.values()), Guidelines()), strict=True):
            ratings.append(Rating(f"{name}-{item.key}", item.key, name, True, "rate", said, 1, 0, "now"))
    return Snapshot("p", items, ratings, Guidelines(), 1)


@pytest.mark.parametrize("bias", [-0.5, 0.0, 0.7])
def test_a_liking_for_the_first_place_is_found_by_regression(asked: Asked, bias: float) -> None:
    """If this failed, a page could not say whether its layout decides the votes."""
    found = reliability.comparisons(
        world(asked, 2000, {"robot": Manner(temperature=0.5, position_bias=bias)}), "all"
    )
    estimate = reliability.position_bias(found)
    assert estimate.method.startswith("logistic") and estimate.comparisons == 2000
    assert estimate.value == pytest.approx(bias, abs=2 * estimate.error) and estimate.error < 0.06


def test_items_that_differ_do_not_hide_it_when_both_orders_were_seen(asked: Asked) -> None:
    """If this failed, the liking would be found too small on real prompts, which differ more than models do."""
    raters = {f"robot-{i}": Manner(temperature=0.3, position_bias=0.7) for i in range(4)}
    found = reliability.comparisons(world(asked, 1000, raters, spread=0.6), "all")
    estimate, naive = reliability.position_bias(found), reliability._between_models(found)
    assert estimate.method.startswith("Mantel")
    assert estimate.value == pytest.approx(0.7, abs=2 * estimate.error) and estimate.error < 0.07
    assert naive.value < 0.7 - 2 * naive.error, "this world does not need the other estimate"


def test_without_decided_choices_there_is_no_estimate(asked: Asked) -> None:
    """If this failed, a number would be shown that nothing stands behind."""
    assert reliability.position_bias([]) is None
    always_first = [
        reliability.Comparison("a", str(i), i % 2, ("m", "n") if i % 2 else ("n", "m"), True)
        for i in range(30)
    ]
    assert reliability.position_bias(always_first) is None
    tie = Rating("k", "i", "a", False, "rate", Judgement(choice="tie", shown=(0, 1)), 1, 0, "now")
    assert reliability.comparisons(Snapshot("p", {"i": asked()}, [tie], Guidelines(), 1)) == []


def test_bad_raters_are_found_and_good_ones_are_not(asked: Asked) -> None:
    """If this failed, an adversary among ten would spoil the preferences, or an honest rater be thrown out."""
    good = {f"good-{i}": Manner(temperature=0.3, seed=i) for i in range(8)}
    bad = {"contrary": Manner(temperature=0.3, adversarial=True), "idle": Manner(lazy=1.0)}
    state = world(asked, 300, good | bad, spread=0.5)
    verdicts = {line["rater"]: line["verdict"] for line in reliability.raters(state, "all")}
    assert verdicts.pop("contrary") == "answers the opposite" and verdicts.pop("idle") == "guesses"
    assert set(verdicts.values()) == {"fits"}
    assert reliability.unreliable(state, "all") == ["contrary", "idle"]
    assert all(line["simulated"] for line in reliability.raters(state, "all"))
    assert reliability.raters(state, "people") == []

    def right(config: Config) -> float:
        """The share of preferences that agree with what the answers are worth."""
        found = build(state, config).train
        worth = [[float(p.item.answers[place].text) for place in (p.chosen, p.rejected)] for p in found]
        return sum(chosen > rejected for chosen, rejected in worth) / len(found)

    assert right(Config(who="all", exclude=("contrary", "idle"))) > right(Config(who="all"))


def test_few_shared_items_condemn_nobody(asked: Asked) -> None:
    """If this failed, a rater would be dropped for three unlucky items."""
    raters = {name: Manner(temperature=0, adversarial=name == "b") for name in "abc"}
    assert reliability.unreliable(world(asked, 5, raters), "all") == []
