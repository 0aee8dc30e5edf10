"""`lmcraft runs` lists what is there, whatever state it is in."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lmcraft.core.run import Run


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    base = Run.create(tmp_path / "runs" / "base", "stage: pretrain\n", command=["x"])
    base.append_metrics({"step": 1, "loss": 2.5})
    base.append_metrics({"step": 2, "loss": None})
    base.write_text("model/model.safetensors", "w")
    base.set_status("done", step=2)
    Run.create(tmp_path / "runs" / "demo" / "sft", "stage: sft\n", [base.path], command=["x"])
    (tmp_path / "runs" / "notes").mkdir()
    return tmp_path / "runs"


def test_runs_are_listed_with_what_they_came_from(lmcraft, runs: Path) -> None:
    """If this failed, a user with many runs could not tell which one to use."""
    rows = {row["name"]: row for row in json.loads(lmcraft("runs", "--json").stdout)["runs"]}
    assert rows.keys() == {"base", "demo/sft"}
    assert (rows["base"]["stage"], rows["base"]["status"], rows["base"]["step"]) == ("pretrain", "done", 2)
    assert rows["base"]["loss"] == 2.5
    assert (rows["demo/sft"]["status"], rows["demo/sft"]["parents"]) == ("interrupted", ["base"])
    text = lmcraft("runs", runs).stdout
    assert "base" in text and "interrupted" in text


def test_a_damaged_run_does_not_hide_the_others(lmcraft, runs: Path) -> None:
    """If this failed, one broken file would make the whole list useless."""
    (runs / "demo" / "sft" / "state.json").write_text("{")
    done = lmcraft("runs")
    assert done.returncode == 0 and "damaged" in done.stdout and "done" in done.stdout


def test_a_directory_without_runs(lmcraft, tmp_path: Path) -> None:
    """If this failed, a first-time user would see an empty screen or a traceback."""
    done = lmcraft("runs")
    assert done.returncode == 2 and "no such directory" in done.stderr
    assert "lmcraft demo" in lmcraft("runs", tmp_path).stdout
