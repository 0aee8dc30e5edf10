"""Entities by CoNLL's rule: by hand, and against the rule of conlleval written out a second time."""

from __future__ import annotations

import itertools

import pytest

from lmcraft.text.entities import Entity, entities


@pytest.mark.parametrize(
    "tags,expected",
    [
        ("O B-PER I-PER O", [(1, 3, "PER")]),
        ("B-PER B-PER", [(0, 1, "PER"), (1, 2, "PER")]),
        ("I-PER I-PER O I-LOC", [(0, 2, "PER"), (3, 4, "LOC")]),  # IOB1
        ("I-PER B-PER", [(0, 1, "PER"), (1, 2, "PER")]),  # IOB1: B only between two neighbours
        ("B-PER I-LOC", [(0, 1, "PER"), (1, 2, "LOC")]),
        ("B-PER O I-PER", [(0, 1, "PER"), (2, 3, "PER")]),
        ("S-PER B-LOC I-LOC E-LOC S-LOC", [(0, 1, "PER"), (1, 4, "LOC"), (4, 5, "LOC")]),
        ("B-a-b I-a-b", [(0, 2, "a-b")]),
        ("NN VB IN", []),
        ("", []),
    ],
)
def test_by_hand(tags, expected):
    """A difference would mean that F1 counts other entities than the script that all papers use."""
    assert entities(tags.split()) == [Entity(*one) for one in expected]


def by_conlleval(tags: list[str]) -> set[tuple[int, int, str]]:
    """The conditions of conlleval's endOfChunk and startOfChunk for B, I and O, one after the other."""
    found, start = set(), None
    before, before_type = "O", ""
    for place, tag in enumerate([*tags, "O"]):
        mark, _, kind = tag.partition("-")
        end = False
        if (before, mark) in (("B", "B"), ("B", "O"), ("I", "B"), ("I", "O")):
            end = True
        if before != "O" and before_type != kind:
            end = True
        begin = False
        if mark == "B" or (before == "O" and mark == "I"):
            begin = True
        if mark != "O" and before_type != kind:
            begin = True
        if end and start is not None:
            found.add((start, place, before_type))
            start = None
        if begin:
            start = place
        before, before_type = mark, kind
    return found


def test_against_the_scripts_conditions():
    """A difference would mean that some sequence of tags is read otherwise than by conlleval."""
    marks = ["O", "B-X", "I-X", "B-Y", "I-Y"]
    for length in range(1, 6):
        for tags in itertools.product(marks, repeat=length):
            assert set(entities(tags)) == by_conlleval([*tags]), tags
