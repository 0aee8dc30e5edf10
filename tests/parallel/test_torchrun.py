"""The command line under torchrun: one run, written by one process, stopped together, and gone on with elsewhere."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lmcraft import api, recipe
from lmcraft.core.errors import UserError
from lmcraft.data import synthetic
from lmcraft.train import checkpoint, parallel

STEPS, PATIENCE_S = 200, 900
SETTINGS = [
    "model=nano", "model.width=32", "model.context=64", "tokenizer.vocab=300", "train.batch_size=8",
    "train.save_every=100000", "train.precision=fp32", "train.eval_every=7", f"train.steps={STEPS}",
    "train.optim.kind=adamw", "sample.max_new_tokens=4", "seed=5",
]  # fmt: skip


@pytest.fixture
def texts(tmp_path) -> Path:
    file = tmp_path / "texts.jsonl"
    file.write_text(
        "".join(json.dumps({"text": record.text}) + "\n" for record in synthetic.texts(40, seed=0))
    )
    return file


def test_sigterm_to_torchrun_saves_and_one_process_goes_on(texts, tmp_path):
    """A failure would mean that a preempted job of many processes loses its work, or is bound to their number."""
    place = tmp_path / "run"
    train = ["-m", "lmcraft", "train", "pretrain", f"data={texts}", *SETTINGS, "--out", str(place)]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with (tmp_path / "log").open("w") as log:
        job = subprocess.Popen(
            [*torchrun, *train, "train.parallel=fsdp", "train.sharded=true"],
            env=environment, stdout=log, stderr=log,
        )  # fmt: skip
        deadline = time.monotonic() + PATIENCE_S
        rows = place / "metrics.jsonl"
        while not rows.exists() or len(rows.read_text().splitlines()) < 5:
            assert job.poll() is None and time.monotonic() < deadline, (tmp_path / "log").read_text()
            time.sleep(0.01)
        job.send_signal(signal.SIGTERM)
        assert job.wait(timeout=PATIENCE_S) != 0
    said = (tmp_path / "log").read_text()
    assert said.count("stopped by SIGTERM after step") == 1 and "lmcraft-" not in said, said
    path, faults = checkpoint.find(place / "checkpoints")
    assert path is not None and not faults
    step = checkpoint.read(Path(path)).step
    assert 5 <= step < STEPS and f"after step {step};" in said
    state = json.loads((place / "state.json").read_text())
    assert state["status"] == "interrupted" and state["step"] == step

    done = subprocess.run(
        [sys.executable, "-m", "lmcraft", "train", str(place / "config.yaml"), "train.parallel=none"],
        env=environment, capture_output=True, text=True, timeout=PATIENCE_S,
    )  # fmt: skip
    assert done.returncode == 0 and f"resumed after step {step}" in done.stderr, done.stderr
    found = [json.loads(line)["step"] for line in rows.read_text().splitlines()]
    assert found == list(range(1, STEPS + 1))
    assert (place / "model" / "model.safetensors").exists()


def test_fsdp_without_torchrun_is_refused_with_the_command(texts, monkeypatch):
    """A failure would mean that a model that does not fit is loaded whole, or that users have to guess the command."""
    monkeypatch.setattr(sys, "argv", ["lmcraft", "train", "pretrain", f"data={texts}", "train.parallel=fsdp"])
    with pytest.raises(UserError, match="needs torchrun") as caught:
        next(api.train("pretrain", [f"data={texts}", "train.parallel=fsdp"], out="nowhere"))
    assert "torchrun --standalone --nproc-per-node=" in caught.value.fix
    assert f"-m lmcraft train pretrain data={texts} train.parallel=fsdp" in caught.value.fix
    assert not Path("nowhere").exists()


@pytest.fixture
def launched(monkeypatch):
    """As if torchrun had started this process as the first of two, with restarts."""
    settings = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    for name, value in (settings | {"TORCHELASTIC_MAX_RESTARTS": "3"}).items():
        monkeypatch.setenv(name, value)


def test_none_under_torchrun_is_refused(launched):
    """A failure would mean that two processes write one run."""
    with pytest.raises(UserError, match="torchrun has started 2 processes"):
        parallel.begin("none")


def test_restarts_need_a_name(launched, texts):
    """A failure would mean that every restart begins a new run, and nothing is ever finished."""
    with pytest.raises(UserError, match="needs a name"):
        api.place(recipe.read("pretrain", [f"data={texts}"]))


def test_a_job_in_which_no_machine_can_be_replaced_says_so(launched, monkeypatch, capsys):
    """A failure would mean that users learn it only when a machine is lost and the others give up."""
    parallel.warn_of_shared_store()
    assert not capsys.readouterr().err  # one machine
    monkeypatch.setenv("GROUP_WORLD_SIZE", "2")
    parallel.warn_of_shared_store()
    assert f"start torchrun with {parallel.OWN_STORE}=1 on all machines" in capsys.readouterr().err
    monkeypatch.setenv(parallel.OWN_STORE, "1")
    parallel.warn_of_shared_store()
    assert not capsys.readouterr().err


def test_rows_that_cannot_be_divided_are_refused(texts, tmp_path):
    """A failure would mean a hang, when one process of a sharded model has a micro-batch more than the others."""
    from lmcraft.work import prepare

    asked = recipe.read("pretrain", [f"data={texts}", *SETTINGS])
    with pytest.raises(UserError, match="cannot be divided evenly among 3 processes") as caught:
        prepare(asked, tmp_path / "run", None, parallel.Ranks(0, 3, "ddp"))
    assert caught.value.fix.startswith("choose 6 or 9")
