"""Cleaning: repetitions are found and named, and nothing else is thrown away."""

from __future__ import annotations

import random
import sys

import pytest

from lmcraft.core.errors import UserError
from lmcraft.data import clean
from lmcraft.data.records import Chat, Labeled, Message, Text, Where

WORDS = [f"w{n}" for n in range(500)]


def text(words, line=0):
    return Text(words if isinstance(words, str) else " ".join(words), Where("x.txt", line))


def test_exact_repetitions():
    """A failure would mean that a row is trained on twice, or that the report names the wrong lines."""
    records = [text("one", 1), text("two", 2), text(" One\n", 3), text("ｏｎｅ", 4), text("onetwo", 5)]
    kept, removed = clean.exact(records)
    assert [record.where.line for record in kept] == [1, 2, 5]
    assert [(one.where.line, one.of.line, one.similarity) for one in removed] == [(3, 1, 1.0), (4, 1, 1.0)]


def test_records_made_in_memory_are_compared_by_content():
    """A failure would mean that records without a file all pass as different because they share a place."""
    kept, removed = clean.exact([Text("a"), Text("a"), Text("b")])
    assert kept == [Text("a"), Text("b")] and len(removed) == 1


def test_what_differs_stays():
    """A failure would mean that examples which differ in label, role or boundary are thrown away."""
    q, a = Message("user", "a"), Message("assistant", "b")
    records = [
        Labeled("a", "x"),
        Labeled("a", "y"),
        Text("a"),
        Chat((q, a)),
        Chat((Message("user", "a b"), a)),
        Chat((q, Message("assistant", "c"))),
    ]
    assert clean.exact(records) == (records, [])


def near_copy(words, changed, draw):
    """The words with some of them exchanged."""
    copy = list(words)
    for at in draw.sample(range(len(copy)), changed):
        copy[at] = "changed"
    return copy


def test_near_repetitions_are_truly_similar_and_all_others_stay():
    """A failure would mean that chance throws away a document that is unlike, or keeps an evident copy."""
    draw = random.Random(0)
    originals = [draw.choices(WORDS, k=200) for _ in range(40)]
    copies = [near_copy(words, 2, draw) for words in originals[:10]]
    # Similar enough (about 0.6) to be proposed as candidates, not to be removed.
    far = [near_copy(words, 10, draw) for words in originals[10:20]]
    records = [text(words, line) for line, words in enumerate([*originals, *copies, *far], start=1)]
    kept, removed = clean.near(records, threshold=0.8)
    assert [record.where.line for record in kept] == [*range(1, 41), *range(51, 61)]
    for one in removed:
        assert one.of.line == one.where.line - 40
        left, right = (clean._pieces(records[place.line - 1]) for place in (one.where, one.of))
        assert one.similarity == len(left & right) / len(left | right) >= 0.8


def test_a_repetition_of_a_removed_record_names_a_kept_one():
    """A failure would mean that the report sends the user to a record that is not there any more."""
    words = random.Random(1).choices(WORDS, k=200)
    copy = near_copy(words, 1, random.Random(2))
    kept, removed = clean.near([text(words, 1), text(copy, 2), text(copy, 3)])
    assert [record.where.line for record in kept] == [1]
    assert [(one.where.line, one.of.line) for one in removed] == [(2, 1), (3, 1)]
    assert removed[0].similarity == removed[1].similarity < 1


def test_the_same_input_gives_the_same_result():
    """A failure would mean that two machines train on different data."""
    draw = random.Random(3)
    words = draw.choices(WORDS, k=100)
    records = [text(near_copy(words, n % 15, draw), n) for n in range(60)]
    assert clean.near(records, 0.5) == clean.near(records, 0.5)


def test_short_records_are_compared_whole():
    """A failure would mean that records of a few words, which have no 5-word piece, all look alike."""
    records = [text("yes"), text("no"), text("yes no")]
    assert clean.near(records)[0] == records


def test_what_cannot_be_done(monkeypatch):
    """A failure would mean a traceback instead of the name of the missing extra or the wrong number."""
    for threshold in (0, -1, 1.5, float("nan")):
        with pytest.raises(UserError, match="similarity threshold"):
            clean.near([text("a")], threshold)
    monkeypatch.setitem(sys.modules, "datasketch", None)
    with pytest.raises(UserError) as error:
        clean.near([text("a")])
    assert "pip install 'lmcraft[data]'" in str(error.value)
