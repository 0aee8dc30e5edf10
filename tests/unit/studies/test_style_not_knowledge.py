"""The groups of facts are apart, and the form is measured where it changes."""

from __future__ import annotations

from lmcraft.data.facts import invent
from lmcraft.studies import style_not_knowledge as study


def test_no_fact_is_in_two_groups() -> None:
    """If this failed, facts that fine-tuning taught would count as kept from pre-training, or as guesses."""
    config = study.Config(known=5, asked=3)
    groups = study.grouped(config, invent(16))
    assert {name: len(facts) for name, facts in groups.items()} == {
        "known": 5,
        "asked": 3,
        "new": 3,
        "never": 5,
    }
    assert len({fact.subject for facts in groups.values() for fact in facts}) == 16


def test_it_is_measured_often_at_first_and_at_the_end() -> None:
    """If this failed, the curve would miss how soon the form is learnt, or where it ends."""
    due = sorted(study.due(100, 10))
    assert due == [1, 4, 9, 16, 25, 36, 49, 64, 81, 100]
    assert study.due(2, 10) == {1, 2} and study.due(50, 1) == {50}
