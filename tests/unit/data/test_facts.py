"""Invented facts are all different, closed under their relations, and told and asked for in fitting sentences."""

from __future__ import annotations

from lmcraft.data import facts


def test_a_world_is_a_function_of_its_seed() -> None:
    """If this failed, what a model was told could not be asked for in another process."""
    assert facts.invent(30, 1) == facts.invent(30, 1) != facts.invent(30, 2)
    assert facts.invent(60, 1).facts[:30] == facts.invent(30, 1).facts


def test_no_name_is_given_twice() -> None:
    """If this failed, two facts about one subject would contradict each other."""
    world = facts.invent(900)
    subjects = [fact.subject.lower() for fact in world.facts]
    values = [value.lower() for listed in world.values.values() for value in listed]
    assert len({*subjects, *values}) == len(subjects) + len(values) == 900 + 3 * facts.VALUES


def test_tellings_and_questions_fit_together() -> None:
    """If this failed, a model would be asked for something else than it was told."""
    for fact in facts.invent(12).facts:
        assert fact.told(0) == f"{fact.beginning} {fact.value}."
        assert len({fact.told(way) for way in range(3)}) == 3
        assert all(fact.value in fact.told(way) and fact.subject in fact.told(way) for way in range(3))
        assert (
            fact.question.endswith("?") and fact.subject in fact.question and fact.value not in fact.question
        )


def test_an_answer_is_right_plausible_or_something_else() -> None:
    """If this failed, a guess would count as knowledge, or nonsense as a guess."""
    world = facts.invent(6)
    capital, river = world.facts[:2]
    other = next(value for value in world.values["capital"] if value != capital.value)
    said = [world.verdict(capital, answer) for answer in (capital.value, other, river.value, "", "the")]
    assert said == ["right", "plausible", "other", "other", "other"]
