"""SIGTERM and SIGINT: everything saved within a step, the documented exit code, and the same command goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from lmcraft.data import synthetic
from lmcraft.train import checkpoint

SETTINGS = [
    "model=nano", "model.width=32", "model.context=64", "model.dropout=0.1", "tokenizer.vocab=300",
    "train.batch_size=8", "train.save_every=100000", "train.precision=fp32", "sample.max_new_tokens=4", "seed=5",
]  # fmt: skip
PATIENCE_S = 120


@pytest.fixture(scope="module")
def texts(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("data") / "texts.jsonl"
    file.write_text(
        "".join(json.dumps({"text": record.text}) + "\n" for record in synthetic.texts(40, seed=0))
    )
    return file


def launch(*arguments: object) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "lmcraft", "train", *map(str, arguments)], env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def start(place: Path, data: Path, steps: int) -> subprocess.Popen:
    return launch("pretrain", f"data={data}", *SETTINGS, f"train.steps={steps}", "--out", place)


def rows(place: Path) -> list[dict]:
    file = place / "metrics.jsonl"
    lines = file.read_text().splitlines(keepends=True) if file.exists() else []
    return [json.loads(line) for line in lines if line[-1] == "\n"]


def after_steps(place: Path, steps: int, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while len(rows(place)) < steps:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline, "training does not begin"
        time.sleep(0.002)


def last(place: Path) -> checkpoint.Checkpoint:
    found, faults = checkpoint.newest(place / "checkpoints")
    assert found is not None and not faults
    return found


@pytest.mark.parametrize("number,code", [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["term", "int"])
def test_a_signal_saves_and_the_same_command_goes_on(texts, tmp_path, number, code):
    """A failure would mean that a preempted job loses its work, or goes on to another result."""
    steps = 150
    process = start(tmp_path / "run", texts, steps)
    after_steps(tmp_path / "run", 5, process)
    seen = len(rows(tmp_path / "run"))
    process.send_signal(number)
    out, said = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == code, said
    config = tmp_path / "run" / "config.yaml"
    assert "Traceback" not in said and f"lmcraft train {config} goes on" in said and out == ""
    saved = last(tmp_path / "run").step
    assert seen <= saved < steps
    assert [row["step"] for row in rows(tmp_path / "run")] == list(
        range(1, saved + 1)
    )  # saved after the step at hand
    state = json.loads((tmp_path / "run" / "state.json").read_text())
    assert state["status"] == "interrupted" and state["step"] == saved

    # Both ways to go on: the same command, and the one that the message names.
    resumed = start(tmp_path / "run", texts, steps) if number == signal.SIGTERM else launch(config)
    for process in (resumed, start(tmp_path / "whole", texts, steps)):
        _, said = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0, said
    resumed, whole = last(tmp_path / "run"), last(tmp_path / "whole")
    assert resumed.step == whole.step == steps and resumed.state == whole.state
    for part, tensors in whole.tensors.items():
        assert resumed.tensors[part].keys() == tensors.keys()
        for name, tensor in tensors.items():
            assert torch.equal(resumed.tensors[part][name], tensor), f"{part} {name}"
    ours, theirs = (
        [(r["step"], r["loss"], r["grad_norm"]) for r in rows(tmp_path / n)] for n in ("run", "whole")
    )
    assert ours == theirs


def test_a_second_trainer_is_refused(texts, tmp_path):
    """A failure would mean that two processes write one run and neither result can be trusted."""
    first = start(tmp_path / "run", texts, 100_000)
    try:
        after_steps(tmp_path / "run", 1, first)
        second = start(tmp_path / "run", texts, 100_000)
        _, said = second.communicate(timeout=PATIENCE_S)
        assert second.returncode == 2, said
        assert str(first.pid) in said and "Traceback" not in said
        done = len(rows(tmp_path / "run"))
        after_steps(tmp_path / "run", done + 2, first)  # the first has not noticed
        assert json.loads((tmp_path / "run" / "state.json").read_text())["status"] == "running"
    finally:
        first.send_signal(signal.SIGTERM)
        first.communicate(timeout=PATIENCE_S)
    assert first.returncode == 143


BUSY = """
import os, signal, sys, time
from lmcraft.train.interrupt import listening
with listening() as request:
    for number in sys.argv[1:]:
        os.kill(os.getpid(), int(number))
    print(request.number, flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("second,code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_second_signal_exits_at_once(first, second, code):
    """A failure would mean that a step that hangs cannot be left with Ctrl-C."""
    numbers = [str(int(first)), str(int(second))]
    done = subprocess.run(
        [sys.executable, "-c", BUSY, *numbers], capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert done.returncode == code and done.stdout == ""


def test_one_signal_is_only_noted():
    """A failure would mean that the step at hand is torn."""
    process = subprocess.Popen(
        [sys.executable, "-c", BUSY, str(int(signal.SIGINT))], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == f"{int(signal.SIGINT)}\n"
        assert process.poll() is None
    finally:
        process.kill()
        process.communicate()


def test_handlers_are_put_back():
    """A failure would mean that Ctrl-C no longer works in a notebook after training."""
    from lmcraft.train.interrupt import SIGNALS, listening

    before = [signal.getsignal(number) for number in SIGNALS]
    with listening():
        assert [signal.getsignal(number) for number in SIGNALS] != before
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_outside_the_main_thread_nothing_is_caught():
    """A failure would mean that training in a thread, as the server's pages do, crashes."""
    import threading

    from lmcraft.train.interrupt import listening

    seen = []

    def work() -> None:
        with listening() as request:
            seen.append(request.number)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [None]
