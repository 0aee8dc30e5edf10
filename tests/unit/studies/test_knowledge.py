"""Facts are told as often as asked for, and answers are judged by what they name and by their form."""

from __future__ import annotations

from collections import Counter

import pytest

from lmcraft.data import facts
from lmcraft.generate.engine import Completion
from lmcraft.models import decoder
from lmcraft.studies import corpus, knowledge

WORLD = facts.invent(6)
TOKENIZER = knowledge.tokenizer(WORLD)


@pytest.fixture
def lm():
    return corpus.fresh(decoder.Config(layers=1, width=8, heads=2, context=64), 0, TOKENIZER)


def answering(monkeypatch, texts: list[str], finish: str = "stop") -> None:
    said = [Completion(text, [1], [0.0], finish) for text in texts]
    monkeypatch.setattr(knowledge, "_generate", lambda *_, **__: said)


def test_each_fact_is_told_as_often_as_asked_for() -> None:
    """If this failed, the horizontal axis of the lossy-knowledge study would be wrong."""
    first, second, third = WORLD.facts[:3]
    told = Counter(text.text for text in knowledge.texts({0: [third], 3: [first], 40: [second]}, seed=1))
    for fact, count in ((first, 3), (second, 40), (third, 0)):
        assert sum(told[fact.told(way)] for way in range(3)) == count
    assert all(told[second.told(way)] for way in range(3)) and sum(told.values()) == 43
    assert (
        knowledge.texts({9: [first]}, 1)
        == knowledge.texts({9: [first]}, 1)
        != knowledge.texts({9: [first]}, 2)
    )


def test_completions_are_judged_by_their_first_word(lm, monkeypatch) -> None:
    """If this failed, a right answer could be missed, or a list of guesses be counted as right."""
    one, two, three, four = WORLD.facts[:4]
    other = next(value for value in WORLD.values["river"] if value != two.value)
    answering(monkeypatch, [f" {one.value}", f" {other}", f" of {three.value}", ""])
    found = knowledge.complete(lm, WORLD, [one, two, three, four])
    assert (found.right, found.plausible, found.other) == (0.25, 0.25, 0.5)


def test_answers_are_judged_by_what_they_name_and_apart_from_it_by_their_form(lm, monkeypatch) -> None:
    """If this failed, form and knowledge, which the study tells apart, would be mixed."""
    one, two, three, four = WORLD.facts[:4]
    greeting = knowledge.GREETING
    texts = [greeting + one.told(0), two.told(0), f"{greeting}{three.beginning} Nowhere.", greeting]
    answering(monkeypatch, texts)
    found = knowledge.converse(lm, WORLD, [one, two, three, four])
    assert (found.right, found.well_formed) == (0.5, 0.5)
    answering(monkeypatch, texts, finish="length")
    assert knowledge.converse(lm, WORLD, [one, two, three, four]).well_formed == 0


def test_the_form_is_that_of_the_conversations(lm, monkeypatch) -> None:
    """If this failed, a model that answers exactly as it was taught would be marked as ill-formed."""
    answering(monkeypatch, [knowledge.conversation(fact).messages[-1].content for fact in WORLD.facts])
    found = knowledge.converse(lm, WORLD, WORLD.facts)
    assert (found.right, found.well_formed) == (1, 1)


def test_real_answers_can_be_judged(lm) -> None:
    """If this failed, prompts would not be those of the product: a document's beginning, a templated question."""
    for found in (knowledge.complete(lm, WORLD, WORLD.facts), knowledge.converse(lm, WORLD, WORLD.facts)):
        assert found.right + found.plausible + found.other == pytest.approx(1) and 0 <= found.sureness <= 1
