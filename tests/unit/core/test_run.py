"""The Run directory: made once, locked while written, traceable."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lmcraft.core.errors import UserError
from lmcraft.core.run import Run, digest

HOLDER = """
import sys, time
from lmcraft.core.run import Run
with Run(__import__("pathlib").Path(sys.argv[1])).lock():
    print("held", flush=True)
    time.sleep(600)
"""
HOLDER_WITH_WORKER = """
import os, sys, time
from lmcraft.core.run import Run
with Run(__import__("pathlib").Path(sys.argv[1])).lock():
    worker = os.fork()
    if worker == 0:
        print(os.getpid(), flush=True)
        time.sleep(600)
        os._exit(0)
    time.sleep(600)
"""
HOLDER_WITH_ENDED_WORKER = """
import os, sys, time
from lmcraft.core.run import Run
with Run(__import__("pathlib").Path(sys.argv[1])).lock():
    worker = os.fork()
    if worker == 0:
        os._exit(0)
    os.waitpid(worker, 0)
    print("worker ended", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create(tmp_path / "runs" / "a", "stage: pretrain\n", seed=3, command=["lmcraft", "train"])


@contextlib.contextmanager
def process(source: str, run: Run) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A Python process, and the first line it prints."""
    child = subprocess.Popen([sys.executable, "-c", source, str(run.path)], stdout=subprocess.PIPE, text=True)
    try:
        yield child, child.stdout.readline().strip()
    finally:
        child.kill()
        child.wait()
        child.stdout.close()


def test_a_run_says_where_it_came_from(tmp_path: Path, run: Run) -> None:
    """If this failed, a model could not be traced to its code, data, seed and parents."""
    origin = Run.open(run.path).origin
    assert (origin["seed"], origin["command"], origin["parents"]) == (3, ["lmcraft", "train"], [])
    assert origin["packages"].keys() >= {"lmcraft", "torch", "safetensors"}
    assert origin["created"].endswith("+00:00") and len(origin["code"]) == 64
    assert run.config_text == "stage: pretrain\n"
    run.write_text("model/model.safetensors", "weights")
    child = Run.create(tmp_path / "runs" / "b", "", [run.path])
    assert child.origin["parents"] == [{"path": "../a", "digest": digest(run.path / "model")}]


def test_parents_are_found_after_the_folder_of_runs_moved(tmp_path: Path, run: Run) -> None:
    """If this failed, the lineage of a run would end when its folder is copied to another machine."""
    run.write_text("model/model.safetensors", "weights")
    outside = tmp_path / "public"
    outside.mkdir()
    (outside / "model.safetensors").write_text("w")
    Run.create(tmp_path / "runs" / "b", "", [run.path, outside])
    (tmp_path / "runs").rename(tmp_path / "moved")
    assert Run.open(tmp_path / "moved" / "b").parents == [tmp_path / "moved" / "a", outside]


def test_a_parent_without_a_model_is_refused(tmp_path: Path, run: Run) -> None:
    """If this failed, a stage would start from a run that never finished."""
    with pytest.raises(UserError, match="no model here") as caught:
        Run.create(tmp_path / "b", "", [run.path])
    assert caught.value.why == "the run has not finished"
    with pytest.raises(UserError, match="no model here"):
        Run.create(tmp_path / "b", "", [tmp_path / "none"])
    assert Run.create(tmp_path / "b", "").path.is_dir(), "the refused attempts must not be in the way"


def test_nothing_is_overwritten(tmp_path: Path, run: Run) -> None:
    """If this failed, a second run or a wrong --out would destroy what is there."""
    with pytest.raises(UserError, match="there is a run here already"):
        Run.create(run.path, "")
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("years of work")
    with pytest.raises(UserError, match="not a run and not empty") as caught:
        Run.create(tmp_path / "thesis", "")
    assert "chapter.txt" in caught.value.why
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        Run.create(tmp_path / "file", "")
    with pytest.raises(UserError, match="not a run"):
        Run.open(tmp_path / "thesis")


def test_a_half_made_run_is_made_anew(tmp_path: Path, run: Run) -> None:
    """If this failed, a crash at the very start would need a manual step."""
    (run.path / "origin.json").rename(run.path / ".origin.json.tmp")
    assert not Run.exists(run.path)
    again = Run.create(run.path, "stage: sft\n")
    assert Run.exists(run.path) and again.config_text == "stage: sft\n"


def test_the_status_knows_who_died(run: Run) -> None:
    """If this failed, a run that was killed would be listed as running for ever."""
    assert run.state["status"] == "interrupted"
    with run.lock():
        assert run.state == {"status": "running", "step": 0}
        run.set_status("running", step=7)
    assert run.state == {"status": "interrupted", "step": 7}
    run.set_status("done", loss=1.5)
    assert run.state == {"status": "done", "step": 7, "loss": 1.5}


def test_a_second_writer_is_refused_and_told_who_writes(run: Run) -> None:
    """If this failed, two trainers would write into one directory and mix their checkpoints."""
    with process(HOLDER, run) as (holder, first_line):
        assert first_line == "held" and run.is_locked()
        with pytest.raises(UserError, match="another process") as caught, run.lock():
            pass
        assert f"process {holder.pid} " in caught.value.why
    with run.lock(), pytest.raises(UserError, match="another process"), run.lock():
        pass
    assert not run.is_locked()


def test_a_killed_holder_does_not_block(run: Run) -> None:
    """If this failed, a crash would need a manual step: deleting a stale lock."""
    with process(HOLDER, run) as (holder, _):
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        with run.lock():
            assert run.is_locked()


def test_a_worker_that_outlives_a_killed_trainer_does_not_hold_the_lock(run: Run) -> None:
    """If this failed, an orphaned data worker, which inherits the open lock file, would block the restart."""
    with process(HOLDER_WITH_WORKER, run) as (holder, worker):
        try:
            holder.send_signal(signal.SIGKILL)
            holder.wait()
            os.kill(int(worker), 0)  # it lives
            with run.lock():
                pass
        finally:
            os.kill(int(worker), signal.SIGKILL)


def test_a_worker_that_ends_does_not_free_the_lock(run: Run) -> None:
    """If this failed, the first data worker to finish would open the run to a second trainer."""
    with process(HOLDER_WITH_ENDED_WORKER, run) as (_, first_line):
        assert first_line == "worker ended" and run.is_locked()


def test_resuming_drops_later_rows(run: Run) -> None:
    """If this failed, a resumed log would hold some steps twice."""
    for step in range(1, 6):
        run.append_metrics({"step": step, "loss": 1 / step})
        run.append_sample({"step": step, "text": "é\n"})
    with (run.path / "metrics.jsonl").open("a") as log:
        log.write('{"step": 6, "lo')
    run.truncate_metrics(3)
    assert [row["step"] for row in run.metrics()] == [1, 2, 3]
    assert run.samples()[-1] == {"step": 3, "text": "é\n"}
    run.append_metrics({"step": 4})
    assert [row["step"] for row in run.metrics()] == [1, 2, 3, 4]
    run.truncate_metrics(0)
    assert run.metrics() == []
