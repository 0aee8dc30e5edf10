"""`kill -9` while a policy answers, is judged, or learns; the same command ends with the bits of an undisturbed run."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path

import pytest

spec = importlib.util.spec_from_file_location("lmcraft_kills", Path(__file__).with_name("test_kill.py"))
kills_of = importlib.util.module_from_spec(spec)
spec.loader.exec_module(kills_of)

# Rounds of 16 answers, four steps each: kills meet the first step of a round, and those that go on with it.
SETTINGS = [
    "model=nano", "model.width=32", "model.context=64", "model.dropout=0.1", "tokenizer.vocab=300",
    "stage.reward=length", "stage.rollout.episodes=16", "stage.rollout.epochs=2",
    "stage.rollout.max_new_tokens=6", "stage.kl.target=0.01", "stage.kl.horizon=100",
    "train.batch_size=8", "train.micro_batch_size=4", "train.save_every=1", "train.precision=fp32",
    "train.lr=0.001", "sample.max_new_tokens=4", "seed=5",
]  # fmt: skip


def train(place: Path, data: Path, kills: int, steps: int, seed: int = 0) -> int:
    return kills_of.interrupted(
        place, ["train", "ppo", f"data={data}", *SETTINGS, f"train.steps={steps}"], kills, seed
    )


def facts(place: Path) -> dict[str, object]:
    """What must be the same: as of any run, and all that is told of each round but time and memory."""
    rows = [json.loads(line) for line in (place / "metrics.jsonl").read_text().splitlines()]
    told = [{n: v for n, v in row.items() if "second" not in n and n != "memory_bytes"} for row in rows]
    return kills_of.facts(place) | {"metrics": told}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the test forks")
@pytest.mark.parametrize("kills,steps", [(6, 28), pytest.param(40, 180, marks=pytest.mark.long)])
def test_a_killed_policy_learns_the_same(tmp_path, kills, steps):
    """A difference would mean that answers, credit, the penalty or an order is lost where a machine goes down."""
    data = kills_of.write_chats(tmp_path / "chats.jsonl")
    train(tmp_path / "whole", data, 0, steps)
    train(tmp_path / "killed", data, kills, steps, seed=2)
    whole, killed = facts(tmp_path / "whole"), facts(tmp_path / "killed")
    assert [row["step"] for row in whole["metrics"]] == list(range(1, steps + 1))
    assert len({row["kl_coef"] for row in whole["metrics"] if "kl_coef" in row}) > 1
    for name, value in whole.items():
        assert killed[name] == value, name
