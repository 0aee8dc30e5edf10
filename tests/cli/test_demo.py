"""`lmcraft demo`: the whole life, on a few conversations and with a few steps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lmcraft.cli.main import run

ASKED = ["demo", "--data", "tiny.jsonl", "--steps", "4,4,4", "--out", "demo"]
STAGE = {
    "seconds", "steps", "tokens", "parameters", "loss", "eval_loss", "bits_per_byte", "bits_per_byte_of",
    "share_stopped", "upbeat", "peak_memory_bytes",
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


def test_the_demo_from_end_to_end(
    lmcraft, tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """If this failed, the first command that anybody tries would break, or not show what it promises."""
    done = lmcraft(*ASKED)
    assert done.returncode == 0, done.stderr
    promised = (
        "> Hello!",
        "base:",
        "chat:",
        "bits/byte held out",
        "demo/report.html",
        "lmcraft chat demo/feedback/round-1/policy",
    )
    assert not [part for part in promised if part not in done.stdout], done.stdout
    summary = json.loads((tiny / "demo" / "summary.json").read_text())
    assert summary.keys() == {"data", "stages", "upbeat", "chats", "seconds", "next"}
    for name in ("pretrain", "sft"):
        stage = summary["stages"][name]
        assert stage.keys() == STAGE and stage["steps"] == 4 and None not in stage.values()
        assert 0 <= stage["share_stopped"] <= 1 and stage["tokens"] > 0
    assert [stage["bits_per_byte_of"] for stage in summary["stages"].values()] == [
        "text",
        "answers",
        "answers",
    ]
    assert 0 < summary["upbeat"]["p"] <= 1
    data = summary["data"]
    assert data["trained on"] + data["held out"] == 40 and data["held out"] > 0
    assert all(chat.keys() == {"prompt", "base", "chat", "ppo"} for chat in summary["chats"])
    assert (tiny / "demo" / "report.html").stat().st_size > 10_000

    monkeypatch.chdir(tiny)

    def in_json(*arguments: str) -> tuple[dict, str]:
        """What a command prints as JSON, and what it says; in this process, which saves seconds."""
        assert run([*arguments, "--json"]) == 0
        out, err = capsys.readouterr()
        return json.loads(out), err

    before = {file: file.stat().st_mtime_ns for file in (tiny / "demo").rglob("*")}
    again, said = in_json(*ASKED)
    assert again == summary and "finished already" in said
    assert {file: file.stat().st_mtime_ns for file in (tiny / "demo").rglob("*")} == before

    rows = {row["name"]: row for row in in_json("runs", "demo")[0]["runs"]}
    assert rows["sft"]["parents"] == ["pretrain"] and rows["sft"]["status"] == "done"

    (tiny / "demo" / "summary.json").unlink()  # as if it had been stopped while it measured
    resumed, said = in_json(*ASKED)
    assert said.count("is finished already; nothing to do") == 2
    assert resumed["stages"] == summary["stages"], "the same models were measured again, with another result"

    (tiny / "demo" / "summary.json").unlink()
    assert run([*ASKED[:4], "5,4", *ASKED[5:]]) == 2, (
        "other steps than those it was begun with were ignored in silence"
    )
    assert "begun with 4,4,4, not 5,4,120 steps" in capsys.readouterr().err
