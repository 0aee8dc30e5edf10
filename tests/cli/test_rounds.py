"""`lmcraft feedback round`: votes become a policy, round after round; stopped anywhere, the same command goes on."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from lmcraft.data import synthetic

FEW = ["train.steps=2", "train.batch_size=4", "sample.max_new_tokens=4"]
ROUND = [
    "base=sft", "data=chats.jsonl", "prompts=12", "held_out=4", "max_new_tokens=8",
    "reward=[train.steps=2, train.batch_size=4]", "ppo=[train.steps=2, train.batch_size=4, sample.max_new_tokens=4]",
    "--out", "rounds",
]  # fmt: skip


def lmcraft_in(place: Path, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """A command in a folder."""
    command = [sys.executable, "-m", "lmcraft", *arguments]
    return subprocess.run(
        command, cwd=place, input=stdin, capture_output=True, text=True, timeout=600, check=False
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Conversations and a chat model that has hardly learned to speak."""
    place = tmp_path_factory.mktemp("rounds")
    chats = synthetic.conversations(120, seed=1)
    rows = [{"messages": [{"role": m.role, "content": m.content} for m in chat.messages]} for chat in chats]
    (place / "chats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    made = lmcraft_in(
        place, "train", "sft", "data=chats.jsonl", "model=nano", "model.context=96", "tokenizer.vocab=300", *FEW,
        "--out", "sft",
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    return place


def test_a_rule_votes_for_two_rounds(folder: Path):
    """If this failed, the chapter's summit could not be climbed: people rate, reward model, PPO, refine again."""
    done = lmcraft_in(folder, "feedback", "round", *ROUND, "rater=length", "--rounds", "2", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert [one["round"] for one in told["rounds"]] == [1, 2] and told["waiting"] is None
    for one in told["rounds"]:
        assert one["simulated"] and one["gold"] and 0 <= one["win_rate"] <= 1 and one["kl"] is not None
        assert (folder / one["lineage"]["policy"] / "model" / "model.safetensors").exists()
        page = (folder / "rounds" / f"round-{one['round']}" / "report.html").read_text()
        assert "simulated" in page and "All rounds" in page
    rows = [
        json.loads(line) for line in (folder / "rounds/round-2/preferences.jsonl").read_text().splitlines()
    ]
    assert rows and all(row["ratings"] and row["simulated"] for row in rows), (
        "a row cannot be followed to a vote"
    )
    assert told["rounds"][1]["preferences"] > told["rounds"][0]["preferences"], "earlier votes were lost"

    before = {file: file.stat().st_mtime_ns for file in (folder / "rounds").rglob("*.json*")}
    again = lmcraft_in(folder, "feedback", "round", *ROUND, "rater=length", "--rounds", "2", "--json")
    assert json.loads(again.stdout)["rounds"] == told["rounds"]
    assert {file: file.stat().st_mtime_ns for file in before} == before, "a finished round was done again"

    other = lmcraft_in(folder, "feedback", "round", *ROUND, "rater=vader", "--rounds", "2")
    assert other.returncode == 2 and "rater" in other.stderr


def test_people_are_waited_for(folder: Path):
    """If this failed, a round would go on without the votes of the people whom it is for."""
    asked = ["feedback", "round", *ROUND[:-1], "people", "--json"]
    first = json.loads(lmcraft_in(folder, *asked).stdout)
    assert first["rounds"] == [] and first["waiting"]["items"] > 6
    assert not (folder / "people" / "round-1" / "reward").exists()
    for _ in range(2):  # the votes of the round, then those on held-out prompts
        waiting = json.loads(lmcraft_in(folder, *asked).stdout)["waiting"]
        rate = ["feedback", "rate", waiting["project"], "--rater", "ann", "--db", first["database"]]
        rated = lmcraft_in(folder, *rate, stdin="1\n2\n" * 60)
        assert rated.returncode == 0, rated.stderr
    done = json.loads(lmcraft_in(folder, *asked).stdout)
    assert (
        done["waiting"] is None and done["rounds"][0]["gold"] is None and not done["rounds"][0]["simulated"]
    )
