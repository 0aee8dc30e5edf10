"""`lmcraft demo`: the whole life, on a few conversations and with a few steps."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

ASKED = ["demo", "--data", "tiny.jsonl", "--steps", "4,4", "--out", "demo"]
STAGE = {
    "seconds", "steps", "tokens", "parameters", "loss", "eval_loss", "bits_per_byte", "bits_per_byte_of",
    "share_stopped", "peak_memory_bytes",
}  # fmt: skip


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"Have you {i} cats?"},
                {"role": "assistant", "content": f"No, {i + 1}."},
            ]
        }
        for i in range(40)
    ]
    (tmp_path / "tiny.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def finished(done: subprocess.CompletedProcess[str]) -> subprocess.CompletedProcess[str]:
    assert done.returncode == 0, done.stderr
    return done


def test_the_demo_from_end_to_end(lmcraft, tiny: Path) -> None:
    """If this failed, the first command that anybody tries would break, or not show what it promises."""
    told = finished(lmcraft(*ASKED))
    for part in (
        "> Hello!",
        "base:",
        "chat:",
        "bits/byte held out",
        "demo/report.html",
        "lmcraft chat demo/sft",
    ):
        assert part in told.stdout, told.stdout
    summary = json.loads((tiny / "demo" / "summary.json").read_text())
    assert summary.keys() == {"data", "stages", "chats", "seconds", "next"}
    for name in ("pretrain", "sft"):
        stage = summary["stages"][name]
        assert stage.keys() == STAGE and stage["steps"] == 4 and None not in stage.values()
        assert 0 <= stage["share_stopped"] <= 1 and stage["tokens"] > 0
    assert [stage["bits_per_byte_of"] for stage in summary["stages"].values()] == ["text", "answers"]
    assert (
        summary["data"]["trained on"] + summary["data"]["held out"] == 40 and summary["data"]["held out"] > 0
    )
    for chat in summary["chats"]:
        assert chat.keys() == {"prompt", "base", "chat"} and chat["base"]["finish_reason"] in (
            "stop",
            "length",
        )
    assert (tiny / "demo" / "report.html").stat().st_size > 10_000

    before = {file: file.stat().st_mtime_ns for file in (tiny / "demo").rglob("*")}
    again = finished(lmcraft(*ASKED, "--json"))
    assert "finished already" in again.stderr and json.loads(again.stdout) == summary
    assert {file: file.stat().st_mtime_ns for file in (tiny / "demo").rglob("*")} == before

    rows = {
        row["name"]: row for row in json.loads(finished(lmcraft("runs", "demo", "--json")).stdout)["runs"]
    }
    assert rows["sft"]["parents"] == ["pretrain"] and rows["sft"]["status"] == "done"

    (tiny / "demo" / "summary.json").unlink()  # as if it had been stopped while it measured
    resumed = finished(lmcraft(*ASKED, "--json"))
    assert resumed.stderr.count("is finished already; nothing to do") == 2
    for name, stage in json.loads(resumed.stdout)["stages"].items():
        assert stage == summary["stages"][name], "the same models were measured again, with another result"
