"""Preferences: what raters said becomes what a model is trained on, nothing made up and nothing lost from sight."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from lmcraft.core.errors import UserError
from lmcraft.data.load import load
from lmcraft.data.records import Message
from lmcraft.feedback.guidelines import Guidelines
from lmcraft.feedback.judgement import BOTH_BAD, TIE, Answer, Item, Judgement, Rating, Snapshot
from lmcraft.feedback.preferences import Config, Preference, Preferences, build, is_held_out

GUIDELINES = Guidelines.model_validate({"criteria": [{"name": "coherence", "weight": 3}, {"name": "safety"}]})


def made(said: dict[str, Judgement], config: Config | None = None, item: Item | None = None) -> Preferences:
    """The preferences of one item that some raters judged; whose name begins with "robot" is a program."""
    item = item or Item((Message("user", "Hi?"),), (answer("yes"), answer("no")), "item")
    ratings = [
        Rating(f"key-{name}", item.key, name, name.startswith("robot"), "rate", judgement, 1, 0, "now")
        for name, judgement in said.items()
    ]
    return build(Snapshot("p", {item.key: item}, ratings, GUIDELINES, 1), config or Config())


def answer(text: str) -> Answer:
    return Answer(text, f"model of {text}")


def only(found: Preferences) -> Preference:
    assert len(found.train) == 1 and not found.left_out, found.left_out
    return found.train[0]


def scores(first: tuple[int, int], second: tuple[int, int], choice: int | str | None = None) -> Judgement:
    named = [dict(zip(("coherence", "safety"), both, strict=True)) for both in (first, second)]
    return Judgement({0: named[0], 1: named[1]}, choice)


def test_votes_are_weighed_both_ways() -> None:
    """If this failed, a reward model would be surer than its raters were: three against one have the odds 3, not ∞."""
    votes = {name: Judgement(choice=0 if name == "c" else 1) for name in "abcd"} | {
        "e": Judgement(choice=TIE)
    }
    found = made(votes, Config(weight="raters"))
    assert [(one.chosen, one.weight, one.agreement) for one in found.train] == [
        (1, 5 * 0.75, 0.6), (0, 5 * 0.25, 0.2),
    ]  # fmt: skip
    assert all(one.margin is None and one.raters == 5 and len(one.ratings) == 5 for one in found.train)
    assert found.train[1].row()["rejected"] == [{"role": "assistant", "content": "no"}]


def test_votes_give_a_share_of_votes() -> None:
    """If this failed, three against one would look like unanimity, or the loser would be trained as the winner."""
    votes = {name: Judgement(choice=0 if name == "c" else 1) for name in "abcd"}
    found = only(made(votes, Config(margin="share")))
    assert (found.chosen, found.rejected, found.margin, found.unit) == (1, 0, 0.5, "share")
    assert (found.raters, found.agreement, found.weight) == (4, 0.75, 1.0)
    assert found.ratings == ("key-a", "key-b", "key-c", "key-d") and not found.simulated
    assert found.pair().chosen == (Message("assistant", "no"),) and found.pair().prompt == (
        Message("user", "Hi?"),
    )


def test_scores_give_a_margin_in_units_of_the_scale_with_the_weights_of_the_criteria() -> None:
    """If this failed, a criterion that counts three times would not, or the margin would have no unit."""
    said = {"a": scores((5, 1), (3, 3)), "b": scores((4, 2), (4, 1))}
    found = only(made(said))
    assert (found.chosen, found.unit) == (0, "rating")
    assert found.margin == pytest.approx(((3 * 2 - 2) / 4 + 1 / 4) / 2)
    turned = only(made({"a": said["a"]}, Config(criteria={"safety": 1})))
    assert (turned.chosen, turned.margin) == (1, 2.0)


def test_a_choice_outweighs_scores() -> None:
    """If this failed, what a rater said outright would be overruled by an average."""
    found = only(made({"a": scores((5, 5), (1, 1), choice=1)}))
    assert (found.chosen, found.margin, found.unit) == (1, 0.0, "rating")


def test_a_margin_can_be_left_out() -> None:
    """If this failed, a reward model would always be asked to keep a distance that somebody's scale happens to have."""
    said = {"a": scores((5, 5), (1, 1)), "b": scores((1, 1), (5, 5)), "c": scores((5, 5), (1, 1))}
    found = made(said, Config(margin="none"))
    assert [one.weight for one in found.train] == pytest.approx([2 / 3, 1 / 3])
    for one in found.train:
        assert one.margin is None and not {"margin", "margin_unit"} & one.row().keys()
    assert only(made(said)).margin == pytest.approx(4 / 3)


def test_scores_of_some_raters_do_not_speak_for_the_others() -> None:
    """If this failed, margins in votes and in units of a scale would be mixed in one number."""
    found = only(made({"a": scores((5, 5), (1, 1)), "b": Judgement(choice=0)}))
    assert (found.unit, found.margin) == (None, None)
    assert (
        only(made({"a": scores((5, 5), (1, 1)), "b": Judgement(choice=0)}, Config(margin="rating"))).margin
        == 4.0
    )


@pytest.mark.parametrize(
    ("said", "config", "reason"),
    [
        ([0, 1], {}, TIE),
        ([TIE, TIE], {}, TIE),
        ([BOTH_BAD, BOTH_BAD, 0], {}, BOTH_BAD),
        ([0], {"min_raters": 2}, "too few raters"),
        ([0, 0, 1], {"min_agreement": 0.7}, "too little agreement"),
        ([0, TIE], {"min_agreement": 0.7}, "too little agreement"),
        ([0], {"margin": "rating"}, "no scores to take a margin from"),
    ],
)
def test_what_prefers_nothing_is_counted_and_left_out(
    said: list[int | str], config: dict, reason: str
) -> None:
    """If this failed, a tie would be trained as a preference, or vanish without a word."""
    found = made({f"rater-{i}": Judgement(choice=one) for i, one in enumerate(said)}, Config(**config))
    assert not found.train and found.left_out == {reason: 1}


@pytest.mark.parametrize(
    ("texts", "reason"), [(("same", "same"), "equal answers"), (("", "some"), "empty answer")]
)
def test_answers_that_no_model_can_learn_from_are_left_out(texts: tuple[str, str], reason: str) -> None:
    """If this failed, the file would hold rows that reading it refuses."""
    item = Item((Message("user", "?"),), tuple(map(answer, texts)), "item")
    found = made({"a": Judgement(choice=0)}, item=item)
    assert not found.train and found.left_out == {reason: 1}


def test_a_ranking_gives_every_pair() -> None:
    """If this failed, of a ranking of three answers only a part would be used."""
    item = Item((Message("user", "?"),), tuple(map(answer, "abc")), "item")
    found = made({"a": Judgement(ranking=(2, 0, 1))}, item=item)
    assert {(one.chosen, one.rejected) for one in found.train} == {(2, 0), (2, 1), (0, 1)}


def test_programs_count_only_when_asked_and_are_marked() -> None:
    """If this failed, a model would be tuned on a program's taste, believed to be people's."""
    said = {"ann": Judgement(choice=0), "robot": Judgement(choice=0)}
    assert only(made(said)).raters == 1 and not only(made(said)).row()["simulated"]
    assert only(made(said, Config(who="all"))).row()["simulated"]
    assert only(made(said, Config(who="simulated"))).ratings == ("key-robot",)
    assert not made(said, Config(exclude=("ann",))).train


def test_weights_follow_the_choice() -> None:
    """If this failed, sure and unsure preferences would weigh the same although it was asked otherwise."""
    said = {name: Judgement(choice=0 if name != "d" else 1) for name in "abcd"}
    both = {
        kind: [one.weight for one in made(said, Config(weight=kind)).train]
        for kind in ("one", "agreement", "raters")
    }
    assert both == {
        kind: [0.75 * whole, 0.25 * whole] for kind, whole in (("one", 1), ("agreement", 0.75), ("raters", 4))
    }
    assert [only(made(said, Config(weight=kind, margin="share"))).weight for kind in both] == [
        1,
        0.75,
        4,
    ]


def test_prompts_are_held_out_whole_and_for_ever(asked: Callable[..., Item]) -> None:
    """If this failed, a prompt could be trained on and measured on, or the two parts would change."""
    prompts = [asked(str(number)).prompt for number in range(2000)]
    held = [is_held_out(prompt, 0.2) for prompt in prompts]
    assert sum(held) == pytest.approx(400, abs=4 * (2000 * 0.2 * 0.8) ** 0.5)
    more = [is_held_out(prompt, 0.3) for prompt in prompts]
    assert all(later for earlier, later in zip(held, more, strict=True) if earlier)
    assert not any(is_held_out(prompt, 0) for prompt in prompts)


def test_the_rows_are_read_as_preferences(tmp_path: Path) -> None:
    """If this failed, `lmcraft train` could not use what `lmcraft feedback` writes."""
    found = only(made({"a": Judgement(choice=0), "b": Judgement(choice=TIE)}, Config(margin="share")))
    (tmp_path / "p.jsonl").write_text(json.dumps(found.row()) + "\n")
    (record,) = load(tmp_path / "p.jsonl").require().records
    assert (record.prompt, record.chosen, record.rejected) == (
        found.pair().prompt, found.pair().chosen, found.pair().rejected,
    )  # fmt: skip
    assert (
        (record.margin, record.weight, record.agreement)
        == (found.margin, found.weight, found.agreement)
        == (found.pair().margin, found.pair().weight, found.pair().agreement)
        == (0.5, 1.0, 0.5)
    )
    lone = only(made({"a": Judgement(choice=0)}))
    (tmp_path / "lone.jsonl").write_text(json.dumps(lone.row()) + "\n")
    (alone,) = load(tmp_path / "lone.jsonl").require().records
    assert alone.agreement is lone.pair().agreement is None  # one rater does not agree with anybody
    assert lone.row()["ratings"] == ["key-a"] and found.row()["chosen_model"] == "model of yes"


@pytest.mark.parametrize(
    ("config", "what"),
    [
        ({"criteria": {"beauty": 1}}, "no criterion beauty"),
        ({"criteria": {"safety": 0}}, "one is above 0"),
        ({"exclude": ("zoe",)}, "no rater is called zoe"),
    ],
)
def test_unknown_names_are_told(config: dict, what: str) -> None:
    """If this failed, a misspelt name would change nothing and nobody would know."""
    with pytest.raises(UserError, match=what):
        made({"a": Judgement(choice=0)}, Config(**config))
