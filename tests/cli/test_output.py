"""What a verb prints: one JSON document or text."""

from __future__ import annotations

import json

import pytest

from lmcraft.cli.output import emit, table


def test_json_is_one_document_without_nan(capsys: pytest.CaptureFixture[str]) -> None:
    """If this failed, a program that reads our output would stumble over NaN or a second line."""
    emit({"loss": float("nan"), "name": "é"}, True, "for people")
    out = capsys.readouterr().out
    assert json.loads(out, parse_constant=pytest.fail) == {"loss": None, "name": "é"} and out.count("\n") == 1


def test_text_comes_as_text_or_from_a_function(capsys: pytest.CaptureFixture[str]) -> None:
    """If this failed, people would see "None", or a costly text would be made for nobody."""
    emit({}, False, "text")
    emit({}, False, lambda: "made")
    emit({}, False, lambda: print("printed"))
    emit({}, True, lambda: pytest.fail("made for nobody"))
    assert capsys.readouterr().out == "text\nmade\nprinted\n{}\n"


def test_a_table_is_aligned_and_complete() -> None:
    """If this failed, long names would be cut off and could not be copied, or numbers would not line up."""
    long = "a-very-long-name-" * 10
    assert table(("name", "loss"), [(long, 1.23456), ("b", None), ("c", 10)]).splitlines() == [
        f"{'name'.ljust(len(long))}   loss",
        f"{long}  1.235",
        f"{'b'.ljust(len(long))}      -",
        f"{'c'.ljust(len(long))}     10",
    ]
    assert table(("a", "b"), []) == "a  b"
