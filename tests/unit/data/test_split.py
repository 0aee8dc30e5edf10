"""Hold-out: decided by content alone, so that it never moves and never shares an example with training."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmcraft.core.errors import UserError
from lmcraft.data.records import Text, Where
from lmcraft.data.split import split

RECORDS = [Text(f"text {n}", Where("x.txt", n)) for n in range(2000)]
contents = st.lists(st.integers(0, 30), max_size=40)
fractions = st.floats(0, 1, exclude_max=True)


def test_about_the_fraction_is_held_out():
    """A failure would mean that much more or less is held out than was asked; the bounds are five deviations."""
    for fraction in (0.01, 0.05, 0.5):
        deviation = (len(RECORDS) * fraction * (1 - fraction)) ** 0.5
        assert abs(len(split(RECORDS, fraction)[1]) - fraction * len(RECORDS)) < 5 * deviation


@given(contents, fractions, st.integers(0, 3))
def test_each_record_is_on_one_side_and_order_is_kept(numbers, fraction, seed):
    """A failure would mean that records are lost or repeated, or that what is measured was trained on."""
    records = [Text(str(n), Where("x.txt", place)) for place, n in enumerate(numbers)]
    distinct = len(set(numbers))
    if fraction > 0 and len(records) > 1 and distinct == 1:
        with pytest.raises(UserError, match="same content"):
            split(records, fraction, seed)
        return
    train, held = split(records, fraction, seed)
    places = [[record.where.line for record in side] for side in (train, held)]
    assert all(side == sorted(side) for side in places)
    assert sorted(places[0] + places[1]) == list(range(len(records)))
    assert not {record.text for record in train} & {record.text for record in held}
    if fraction > 0 and distinct > 1:
        assert train and held


def test_membership_does_not_depend_on_the_others():
    """A failure would mean that adding data moves old test examples into training."""
    held = set(split(RECORDS[:1000], 0.1)[1])
    shuffled = random.Random(0).sample(RECORDS, len(RECORDS))
    after = set(split(shuffled, 0.1)[1])
    assert held == {record for record in after if record.where.line < 1000}


def test_a_larger_fraction_holds_the_smaller_one():
    """A failure would mean that results at two hold-out sizes are measured on unrelated examples."""
    assert set(split(RECORDS, 0.05)[1]) < set(split(RECORDS, 0.1)[1])


def test_seeds_hold_out_different_parts():
    """A failure would mean that the seed changes nothing, and repeated measurements are one."""
    parts = [set(split(RECORDS, 0.1, seed)[1]) for seed in range(3)]
    assert len(set.intersection(*parts)) < len(RECORDS) * 0.1**3 * 5


def test_at_least_one_is_held_and_one_is_trained_on():
    """A failure would mean that a small data set is measured on nothing, or trained on nothing."""
    few = RECORDS[:2]
    assert [len(side) for side in split(few, 1e-9)] == [1, 1]
    assert [len(side) for side in split(few, 0.999999)] == [1, 1]
    assert split(RECORDS[:1], 0.5) == (RECORDS[:1], []) and split([], 0.5) == ([], [])
    assert split(few, 0) == (few, [])


@pytest.mark.parametrize("fraction", [-0.1, 1, 2, float("nan")])
def test_impossible_fractions(fraction):
    """A failure would mean that a percentage given for a share (5 for 0.05) holds out everything."""
    with pytest.raises(UserError, match="fraction to hold out"):
        split(RECORDS, fraction)
