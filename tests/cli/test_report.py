"""`lmcraft report` writes the page of a run or a demo again, and says where."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lmcraft.core.run import Run


@pytest.fixture
def demo(tmp_path: Path) -> Path:
    """A demo of two small runs."""
    base = Run.create(tmp_path / "demo" / "pretrain", "stage: pretrain\n", command=["lmcraft", "demo"])
    base.append_metrics({"step": 1, "loss": 2.5, "targets": 10})
    base.write_text("model/model.safetensors", "w")
    base.set_status("done", step=1)
    Run.create(
        tmp_path / "demo" / "sft", "stage: sft\n", [base.path], command=["lmcraft", "demo"]
    ).set_status("done")
    (tmp_path / "demo" / "summary.json").write_text('{"stages": {"pretrain": {"seconds": 61}}}')
    return tmp_path / "demo"


def test_the_page_of_a_run(lmcraft, demo: Path) -> None:
    """If this failed, a page could not be made for a run that was interrupted, or renewed after an evaluation."""
    done = lmcraft("report", demo / "pretrain")
    assert (done.returncode, done.stdout) == (0, f"{demo / 'pretrain' / 'report.html'}\n"), done.stderr
    assert "Pre-training" in (demo / "pretrain" / "report.html").read_text()


def test_the_page_of_a_demo_as_json(lmcraft, demo: Path) -> None:
    """If this failed, scripts would not find the page, or the demo's page would be lost for good once deleted."""
    done = lmcraft("report", "demo", "--json")
    assert json.loads(done.stdout) == {"report": "demo/report.html"}
    page = (demo / "report.html").read_text()
    assert "1\u00a0min 1\u00a0s" in page and "sft/report.html" in page


@pytest.mark.parametrize("place", ["nowhere", ".", "broken"])
def test_what_is_neither_is_told(lmcraft, tmp_path: Path, place: str) -> None:
    """If this failed, a wrong path would end in a traceback."""
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "summary.json").write_text("[1]")
    done = lmcraft("report", place, "--json")
    assert done.returncode == 2 and json.loads(done.stdout)["error"]["what"]
