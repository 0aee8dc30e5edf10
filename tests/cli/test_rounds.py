"""`lmcraft feedback round`: votes become a policy, round after round; stopped anywhere, the same command goes on."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
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

    (folder / "rounds" / "round-2" / "round.json").unlink()  # as if it had been stopped behind its last step
    once_more = lmcraft_in(folder, "feedback", "round", *ROUND, "rater=length", "--rounds", "2", "--json")
    assert once_more.returncode == 0, once_more.stderr
    assert json.loads(once_more.stdout)["rounds"] == told["rounds"]

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


def weights_and_votes(place: Path) -> dict[str, bytes]:
    """What rounds have made: reward models, policies, and what was preferred."""
    files = [
        *place.glob("rounds/round-*/*/model/model.safetensors"),
        *place.glob("rounds/round-*/preferences*.jsonl"),
    ]
    return {str(file.relative_to(place)): file.read_bytes() for file in files}


@pytest.mark.long
def test_rounds_that_are_killed_end_with_the_same_bits(folder: Path, tmp_path: Path):
    """A difference would mean that a vote is lost or counted twice, or a training goes on wrongly, after `kill -9`."""
    steps = (
        "train.save_every=2, train.precision=fp32"  # measuring which precision is fast could choose another
    )
    command = [
        sys.executable, "-m", "lmcraft", "feedback", "round", "base=sft", "data=chats.jsonl", "prompts=40",
        "held_out=10", "max_new_tokens=12", "rater=length", f"reward=[train.steps=6, train.batch_size=8, {steps}]",
        f"ppo=[train.steps=8, train.batch_size=16, {steps}]", "--rounds", "2", "--out", "rounds",
    ]  # fmt: skip
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
        shutil.copytree(folder / "sft", tmp_path / name / "sft")
        shutil.copy(folder / "chats.jsonl", tmp_path / name)
    started = time.monotonic()
    subprocess.run(command, cwd=tmp_path / "whole", capture_output=True, check=True)
    took, draw, kills = time.monotonic() - started, random.Random(0), 0
    while True:
        process = subprocess.Popen(
            command, cwd=tmp_path / "killed", stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        try:
            # Nothing happens while it starts; the longer it may live, the surer it comes to an end.
            _, said = process.communicate(timeout=took * (0.2 + 0.1 * kills) * (0.5 + draw.random()))
            break
        except subprocess.TimeoutExpired:
            os.kill(process.pid, signal.SIGKILL)
            process.communicate()
            kills += 1
    assert process.returncode == 0, said.decode()
    assert kills >= 3, "it was hardly disturbed"
    whole = weights_and_votes(tmp_path / "whole")
    assert len(whole) == 8 and weights_and_votes(tmp_path / "killed") == whole
