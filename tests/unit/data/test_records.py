"""Records: immutable, equal by content, and readable part by part."""

from __future__ import annotations

import dataclasses

import pytest

from lmcraft.data.records import (
    KINDS,
    NOWHERE,
    Chat,
    Labeled,
    Message,
    Pair,
    Parallel,
    Problem,
    Prompt,
    Rated,
    Tagged,
    Text,
    Vote,
    Where,
    fingerprint,
    kind,
    parts,
)

ASK, ANSWER, WORSE = Message("user", "q"), Message("assistant", "good"), Message("assistant", "bad")
ONE_OF_EACH = (
    Text("words"),
    Chat((ASK, ANSWER)),
    Pair((ASK,), (ANSWER,), (WORSE,)),
    Rated((ASK,), (ANSWER,), True),
    Prompt((ASK,), "42"),
    Labeled("words", "ham"),
    Tagged(("Rome", "is"), ("B-LOC", "O")),
    Parallel("yes", "oui"),
    Vote("a", "b", "tie", (ASK, ANSWER), (ASK, WORSE)),
)


def test_there_is_one_of_each():
    """A failure would mean that the tests below forget a record type."""
    assert [type(record) for record in ONE_OF_EACH] == list(KINDS.values())
    assert [kind(record) for record in ONE_OF_EACH] == list(KINDS)


@pytest.mark.parametrize("record", ONE_OF_EACH, ids=kind)
def test_a_record_cannot_be_changed(record):
    """A failure would mean that one stage could alter what another one reads."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        record.where = NOWHERE


@pytest.mark.parametrize("record", ONE_OF_EACH, ids=kind)
def test_the_place_is_no_part_of_the_content(record):
    """A failure would mean that the same example in two files is not recognised as one."""
    moved = dataclasses.replace(record, where=Where("other.jsonl", 7))
    assert moved == record and fingerprint(moved) == fingerprint(record)


@pytest.mark.parametrize("record", ONE_OF_EACH, ids=kind)
def test_every_string_is_among_the_parts(record):
    """A failure would mean that statistics and duplicate search overlook some of the content."""
    values = " ".join(text for _, text in parts(record))
    for field in dataclasses.fields(record):
        value = getattr(record, field.name)
        if isinstance(value, str):
            assert value in values
        if isinstance(value, tuple):
            assert all((item if isinstance(item, str) else item.content) in values for item in value)


def test_no_two_contents_share_a_fingerprint():
    """A failure would mean that the hold-out takes different examples for one, or moves text between fields."""
    records = [
        *ONE_OF_EACH,
        Text("words "),
        Chat((ASK,)),
        Chat((Message("user", "qgood"),)),
        Pair((ASK,), (WORSE,), (ANSWER,)),
        Rated((ASK,), (ANSWER,), False),
        Parallel("y", "esoui"),
    ]
    assert len({fingerprint(record) for record in records}) == len(records)


def test_places_and_problems_read_as_editors_expect():
    """A failure would mean that a click on file:line in a terminal opens nothing."""
    assert str(Where("data/x.jsonl", 12)) == "data/x.jsonl:12"
    assert str(Problem(Where("x.csv", 3), "empty")) == "x.csv:3: empty"
