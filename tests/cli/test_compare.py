"""Methods are compared as a user would: one command, one table, one recommendation; what fails is told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lmcraft.cli.main import run
from lmcraft.core.run import Run

TRAIN = ["train.steps=2", "train.batch_size=4", "data.holdout=0.2", "sample.max_new_tokens=2"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tales) -> Path:
    """A base model and conversations."""
    found = tales(tmp_path_factory.mktemp("compare"))
    small = ["model=nano", "model.context=64", "tokenizer.vocab=300", "train.steps=2", "train.batch_size=4"]
    assert run(["train", "pretrain", f"data={found / 'book.txt'}", *small, "--out", str(found / "book")]) == 0
    return found


def compare(folder: Path, *settings: str) -> list[str]:
    given = [f"base={folder / 'book'}", f"data={folder / 'chats.jsonl'}", *TRAIN]
    return ["compare", "sft", *given, *settings, "--out", str(folder / "compared")]


def test_methods_are_compared_and_what_fails_is_told(folder, capsys):
    """A failure would mean that a person compares by hand, or that one method that cannot work hides the others."""
    asked = compare(folder, "adapter=lora", "adapter.rank=2,5000")
    capsys.readouterr()
    assert run([*asked, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["recommended"] == "rank 2" and Path(found["report"]).is_file()
    assert [row[0] for row in found["tables"][0]["rows"]] == ["rank 2"]
    assert any("rank 5000 has no numbers" in limit and "rank" in limit for limit in found["limits"])
    place = folder / "compared" / "adapter.rank-2"
    state = Run.open(place).state
    assert 0 < state["trained_parameters"] < state["parameters"]
    assert found["tables"][0]["rows"][0][3] == state["trained_parameters"]

    before = (place / "adapter" / "adapter_model.safetensors").stat().st_mtime_ns
    assert run([*asked, "--json"]) == 0, "the same command reads what is finished"
    assert (place / "adapter" / "adapter_model.safetensors").stat().st_mtime_ns == before
    capsys.readouterr()
    assert run([*compare(folder, "adapter=lora", "adapter.rank=2,3"), "--json"]) == 2
    assert "another comparison" in json.loads(capsys.readouterr().out)["error"]["what"]


def test_where_nothing_succeeds_the_reason_is_told(folder, capsys):
    """A failure would mean a page without numbers, or a traceback."""
    asked = compare(folder, "adapter=lora", "adapter.rank=5000,6000")
    asked[-1] = str(folder / "none")
    capsys.readouterr()
    assert run([*asked, "--json"]) == 2
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["what"] == "none of the runs succeeded" and "rank" in error["why"]
