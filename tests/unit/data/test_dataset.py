"""From the data section to records: read, duplicates out, held-out part, everything counted."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from lmcraft.core.errors import UserError
from lmcraft.data.dataset import Config, prepare
from lmcraft.data.records import Chat, Text


@pytest.fixture
def file(tmp_path):
    """Forty texts, four of them twice."""
    path = tmp_path / "texts.jsonl"
    lines = [json.dumps({"text": f"text number {n % 40}"}) for n in range(44)]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_duplicates_go_and_a_part_is_held_out(file):
    """A failure would mean training on what is measured, or records that vanish uncounted."""
    found = prepare(Config(files=[str(file)], holdout=0.25), seed=0)
    assert len(found.train) + len(found.held) == 40
    assert found.report["records"] == 44 and found.report["duplicates removed"] == 4
    assert found.report["trained on"] == len(found.train) and found.report["held out"] == len(found.held)
    assert not {r.text for r in found.train} & {r.text for r in found.held}
    assert 2 <= len(found.held) <= 18


def test_the_same_seed_holds_out_the_same(file):
    """A failure would mean that two runs cannot be compared on their held-out loss."""
    config = Config(files=[str(file)], holdout=0.25)
    assert prepare(config, 1) == prepare(config, 1)
    assert prepare(config, 1).held != prepare(config, 2).held


def test_own_held_out_files(file, tmp_path):
    """A failure would mean that a part of the training data is thrown away besides."""
    valid = tmp_path / "valid.jsonl"
    valid.write_text('{"text": "held out"}\n')
    found = prepare(Config(files=[str(file)], valid=[str(valid)]), seed=0)
    assert len(found.train) == 40 and [r.text for r in found.held] == ["held out"]


def test_what_is_held_out_is_not_trained_on(file, tmp_path):
    """A failure would mean that the held-out loss is of texts that were trained on."""
    valid = tmp_path / "valid.jsonl"
    valid.write_text('{"text": "text number 7"}\n{"text": "new"}\n')
    found = prepare(Config(files=[str(file)], valid=[str(valid)]), seed=0)
    assert len(found.train) == 39 and "text number 7" not in [r.text for r in found.train]
    assert found.report["left out, also in the held-out files"] == 1


def test_nothing_held_out_and_nothing_removed(file):
    """A failure would mean that the options do nothing."""
    found = prepare(Config(files=[str(file)], holdout=0, deduplicate="none"), seed=0)
    assert len(found.train) == 44 and found.held == [] and "duplicates removed" not in found.report


def test_limit_takes_the_first(file):
    """A failure would mean that a first try on a few rows reads something else."""
    found = prepare(Config(files=[str(file)], limit=5, holdout=0), seed=0)
    assert [r.text for r in found.train] == [f"text number {n}" for n in range(5)]


def test_the_kind_may_be_given(tmp_path):
    """A failure would mean that a file whose shape is not recognised cannot be used."""
    path = tmp_path / "t.txt"
    path.write_text("hello\n")
    assert isinstance(prepare(Config(files=[str(path)], holdout=0, kind="text"), 0).train[0], Text)
    chats = tmp_path / "c.jsonl"
    chats.write_text('{"prompt": "hi", "completion": "hello"}\n')
    assert isinstance(prepare(Config(files=[str(chats)], holdout=0), 0).train[0], Chat)


def test_bad_rows_are_named(tmp_path):
    """A failure would mean that half of a file is silently left out."""
    path = tmp_path / "t.jsonl"
    path.write_text('{"text": "good"}\n{"text": \n{"text": 3}\n')
    with pytest.raises(UserError) as caught:
        prepare(Config(files=[str(path)]), 0)
    assert f"{path}:2" in str(caught.value) and "2 of 3" in str(caught.value)


def test_missing_files_are_named():
    """A failure would mean a traceback for a typing error."""
    with pytest.raises(UserError, match=r"nowhere\.txt"):
        prepare(Config(files=["nowhere.txt"]), 0)


@pytest.mark.parametrize(
    "value,files", [("a.txt", ("a.txt",)), (["a", "b"], ("a", "b")), ({"files": "a"}, ("a",))]
)
def test_short_forms(value, files):
    """A failure would mean that `data: book.txt` must be written in three lines."""
    assert Config.model_validate(value).files == files


@pytest.mark.parametrize(
    "value", [{}, {"files": []}, {"files": "a", "holdout": 1}, {"files": "a", "limit": 0}, 3]
)
def test_senseless_settings_are_refused(value):
    """A failure would mean that nothing is trained on, without a word."""
    with pytest.raises(ValidationError):
        Config.model_validate(value)
