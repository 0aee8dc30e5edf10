"""Every count that the data left behind is on the page, and the bars add up."""

from __future__ import annotations

import pytest

from lmcraft.report import facts
from lmcraft.report.statistics import bar, statistics


def test_every_count_is_shown_with_its_meaning(make_run) -> None:
    """If this failed, truncated, dropped or padded data would be hidden."""
    found = statistics(facts.read(make_run()))
    values = {line.label: line.value for line in found.lines}
    assert (
        values["Records read"] == "100"
        and values["Duplicates left out"] == "4"
        and values["Truncated"] == "3"
    )
    assert values["Trained tokens among them"] == "900" and values["Rows left out"] == "2"
    assert values["Width of a row"] == "64 tokens"


def test_a_count_that_nobody_knew_is_shown_too(make_run) -> None:
    """If this failed, a stage that begins to count something new would do so in vain."""
    found = statistics(facts.read(make_run(data={"records": 3, "languages mixed": 7, "note": "x"})))
    assert {line.label: line.value for line in found.lines}.items() >= {
        "Languages mixed": "7",
        "Note": "x",
    }.items()


def test_shares_add_up(make_run) -> None:
    """If this failed, the bars would lie about proportions."""
    found = statistics(facts.read(make_run()))
    assert [(s.label, s.count) for s in found.records] == [
        ("trained on", "90"), ("held out", "6"), ("duplicates left out", "4"),
    ]  # fmt: skip
    assert [s.count for s in found.places] == ["900", "1,100", "560"]
    for segments in (found.records, found.places):
        assert sum(segment.width for segment in segments) == pytest.approx(100, abs=0.01)


def test_duplicates_that_were_not_looked_for_are_told(make_run) -> None:
    """If this failed, silence would read as "there were none"."""
    found = statistics(facts.read(make_run(data={"records": 3})))
    assert ("Duplicates", "not looked for") in [(line.label, line.value) for line in found.lines]


def test_nothing_counted_gives_no_bar(make_run) -> None:
    """If this failed, an empty run would divide by zero."""
    assert bar(("a", None, "x"), ("b", 0, "x")) == [] and bar() == []
    assert statistics(facts.read(make_run(data=None))) is None
