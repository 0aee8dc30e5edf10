"""A run survives a kill, and a failing disk, at every single system call that writes it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lmcraft.core.run import Run, read_rows

STRACE = shutil.which("strace")
pytestmark = pytest.mark.skipif(STRACE is None, reason="needs strace")

CALLS = ("write", "pwrite64", "fsync", "rename", "ftruncate")
SAVE = """
import sys
from pathlib import Path
from lmcraft.core.run import Run
from lmcraft.core.errors import UserError
run = Run(Path(sys.argv[1]))
try:
    run.set_status("done", step=2)
    run.append_metrics({"step": 3, "loss": 0.25})
    run.truncate_metrics(2)
except UserError as error:
    sys.exit(f"{error}")
"""
CREATE = """
import sys
from lmcraft.core.run import Run
Run.create(sys.argv[1], "stage: sft\\n", command=["x"])
"""


@pytest.fixture
def run(tmp_path: Path) -> Run:
    made = Run.create(tmp_path / "a", "stage: sft\n", command=["x"])
    made.append_metrics({"step": 1, "loss": 1.0})
    made.append_metrics({"step": 2, "loss": 0.5})
    return made


def fault(source: str, path: Path, call: str, what: str, nth: int) -> subprocess.CompletedProcess[str]:
    """Runs the source with a fault injected into the nth system call of a kind."""
    inject = f"inject={call}:{what}:when={nth}"
    command = [
        STRACE,
        "-f",
        "-qq",
        "-o",
        os.devnull,
        "-e",
        f"trace={call}",
        "-e",
        inject,
        sys.executable,
        "-c",
        source,
    ]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run([*command, str(path)], capture_output=True, text=True, env=environment, timeout=60)


@pytest.mark.parametrize("call", CALLS)
def test_a_kill_at_any_call_leaves_the_old_or_the_new_state(run: Run, call: str) -> None:
    """If this failed, a crash while saving could leave a state that is neither, or rows that cannot be read."""
    for nth in range(1, 20):
        run.set_status("running", step=1)
        killed = fault(SAVE, run.path, call, "signal=KILL", nth).returncode != 0
        state = json.loads((run.path / "state.json").read_text())
        assert state in ({"status": "running", "step": 1}, {"status": "done", "step": 2}), f"{call} {nth}"
        steps = [row["step"] for row in read_rows(run.path / "metrics.jsonl")]
        assert steps in ([1, 2], [1, 2, 3]), f"{call} {nth}"
        assert len(list(run.path.glob(".*.tmp"))) <= 1, f"{call} {nth}"
        run.truncate_metrics(2)
        if not killed:
            assert state["status"] == "done" and nth > 1
            return
    pytest.fail("the sweep did not come to an end")


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("error", ["ENOSPC", "EIO"])
def test_a_disk_that_fails_at_any_call_is_told_and_harmless(run: Run, call: str, error: str) -> None:
    """If this failed, a full disk would cost old content, or end in a traceback instead of a message."""
    for nth in range(1, 20):
        run.set_status("running", step=1)
        done = fault(SAVE, run.path, call, f"error={error}", nth)
        state = json.loads((run.path / "state.json").read_text())
        assert state in ({"status": "running", "step": 1}, {"status": "done", "step": 2}), f"{call} {nth}"
        assert [row["step"] for row in read_rows(run.path / "metrics.jsonl")] in ([1, 2], [1, 2, 3])
        assert not list(run.path.glob(".*.tmp")), f"{call} {nth}"
        run.truncate_metrics(2)
        if done.returncode == 0:
            assert nth > 1
            return
        assert "Traceback" not in done.stderr and f"where: {run.path}" in done.stderr, done.stderr
        assert ("needs" in done.stderr and "bytes are free" in done.stderr) == (error == "ENOSPC"), (
            done.stderr
        )
    pytest.fail("the sweep did not come to an end")


@pytest.mark.parametrize("call", ["pwrite64", "fsync", "rename"])
def test_a_run_can_be_created_after_a_kill_at_any_call_of_its_creation(tmp_path: Path, call: str) -> None:
    """If this failed, a crash in the first second would need a manual step before the same command works."""
    for nth in range(1, 20):
        path = tmp_path / f"run-{nth}"
        killed = fault(CREATE, path, call, "signal=KILL", nth).returncode != 0
        if not Run.exists(path):
            Run.create(path, "stage: sft\n", command=["x"])
        assert Run.open(path).config_text == "stage: sft\n" and Run.open(path).state["step"] == 0
        if not killed:
            assert nth > 1
            return
    pytest.fail("the sweep did not come to an end")
