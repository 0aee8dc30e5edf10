"""`kill -9` at any moment, then the same command again: the run ends with the bits of one that was never killed.

Every attempt is forked from one process that has imported torch, so that twenty kills take seconds, not minutes.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lmcraft.data import synthetic
from lmcraft.train import checkpoint

DRIVER = """
import os, random, signal, sys, time
from pathlib import Path
import torch
torch.set_num_threads(1)
from lmcraft import api  # noqa: imports all that training needs before the fork
from lmcraft.cli.main import run

kills, seed, out, *command = sys.argv[1:]
draw, folder = random.Random(int(seed)), Path(out) / "checkpoints"


def start():
    child = os.fork()
    if child == 0:
        log = os.open(out + ".log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1), os.dup2(log, 2)
        os._exit(run(command))
    return child


def newest():
    return max((int(p.name[5:]) for p in folder.glob("step-*")), default=0)


def writing():
    return any(folder.glob(".*.tmp"))


def ended(child):
    return os.waitpid(child, os.WNOHANG)[0] == child


def wait(child, reached):
    while not reached():
        if ended(child):
            sys.exit(f"the run ended before kill {kill}; see {out}.log")
        time.sleep(0.0003)


inside = 0
for kill in range(int(kills)):
    before, ahead = newest(), draw.randint(0, 4)
    child = start()
    if kill % 2:  # aimed at a save
        wait(child, lambda: newest() >= before + ahead)
        wait(child, writing)
        time.sleep(draw.uniform(0, 0.015))
    elif ahead == 0:  # while it prepares
        time.sleep(draw.uniform(0, 1.0))
    else:  # anywhere in a step
        wait(child, lambda: newest() >= before + ahead)
        time.sleep(draw.uniform(0, 0.08))
    os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status), f"attempt {kill} had ended with {status}"
    inside += writing()
assert os.waitstatus_to_exitcode(os.waitpid(start(), 0)[1]) == 0, f"see {out}.log"
print(inside)
"""
SETTINGS = [
    "model=nano", "model.width=32", "model.context=64", "model.dropout=0.1", "tokenizer.vocab=300",
    "train.batch_size=8", "train.micro_batch_size=4", "train.save_every=1", "train.precision=fp32",
    "train.eval_every=7", "sample.max_new_tokens=4", "seed=5",
]  # fmt: skip
NOT_TIMES = ("step", "loss", "learning_rate", "grad_norm", "targets", "epoch", "eval_loss")


def train(place: Path, data: Path, kills: int, steps: int, seed: int = 0) -> int:
    """Runs `lmcraft train` with `kills` kills on the way; how many of them came while a checkpoint was written."""
    return interrupted(
        place, ["train", "sft", f"data={data}", *SETTINGS, f"train.steps={steps}"], kills, seed
    )


def interrupted(place: Path, command: list[str], kills: int, seed: int = 0) -> int:
    """Runs a command that writes to `place` with `kills` kills on the way."""
    command = [*command, "--out", str(place)]
    environment = os.environ | {"LMCRAFT_HOME": str(place) + ".home", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, str(kills), str(seed), str(place), *command],
        env=environment, capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    log = Path(f"{place}.log")
    assert done.returncode == 0, done.stderr + (log.read_text()[-3000:] if log.exists() else "")
    return int(done.stdout)


def facts(place: Path) -> dict[str, object]:
    """All that must be the same: every file of the model, the last checkpoint, the log without times, the samples."""
    found, faults = checkpoint.newest(place / "checkpoints")
    assert found is not None and not faults
    files = sorted(file for file in (place / "model").rglob("*") if file.is_file())
    rows = [json.loads(line) for line in (place / "metrics.jsonl").read_text().splitlines()]
    return {
        "model": {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files},
        "checkpoint": {
            part: {name: hashlib.sha256(t.numpy().tobytes()).hexdigest() for name, t in tensors.items()}
            for part, tensors in found.tensors.items()
        },
        "state": found.state,
        "metrics": [{name: row[name] for name in NOT_TIMES if name in row} for row in rows],
        "samples": (place / "samples.jsonl").read_text(),
        "checkpoints": sorted(path.name for path in (place / "checkpoints").iterdir()),
        "status": json.loads((place / "state.json").read_text())["status"],
    }


def write_chats(file: Path) -> Path:
    lines = [
        json.dumps({"messages": [{"role": m.role, "content": m.content} for m in chat.messages]})
        for chat in synthetic.conversations(60, seed=0)
    ]
    file.write_text("\n".join(lines) + "\n")
    return file


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the test forks")
@pytest.mark.parametrize("kills,steps", [(20, 100), pytest.param(100, 420, marks=pytest.mark.long)])
def test_killed_runs_end_with_the_bits_of_an_uninterrupted_one(tmp_path, kills, steps):
    """A difference would mean that a power cut or a preempted machine silently changes what was learned."""
    data = write_chats(tmp_path / "chats.jsonl")
    train(tmp_path / "whole", data, 0, steps)
    inside = train(tmp_path / "killed", data, kills, steps, seed=1)
    assert inside >= kills // 5, f"only {inside} kills came inside a save; the test has lost its aim"
    whole, killed = facts(tmp_path / "whole"), facts(tmp_path / "killed")
    assert [row["step"] for row in whole["metrics"]] == list(range(1, steps + 1))
    for name, value in whole.items():
        assert killed[name] == value, name
