"""Performs the runs of a comparison, each in a process of its own, and reads from them what is compared.

1. A process of its own: its peak memory is that of this run alone, and a run that fails stops no other.
2. The directory is a store of finished runs: the same command goes on where it was stopped.

Proved by tests/cli/test_compare.py.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..core.disk import read_json, write_json, writing
from ..core.errors import UserError
from ..core.log import Progress
from ..core.run import Run
from .grid import Grid, Trial

ASKED = "asked.json"
KEPT = ("model", "adapter")


@dataclass(frozen=True)
class Outcome:
    """What a run came to; `failure` says why it has no numbers."""

    trial: Trial
    run: str
    loss: float = float("nan")
    trained: int = 0
    peak_memory_bytes: int = 0
    seconds: float = 0.0
    file_bytes: int = 0
    failure: str = ""


def perform(source: str, grid: Grid, directory: Path) -> list[Outcome]:
    """All runs, one after the other.

    Raises:
        UserError: the directory holds a comparison of other settings, or something else; no run succeeded.
    """
    _claim(
        directory,
        [source, *grid.shared, *(argument for trial in grid.trials for argument in trial.arguments)],
    )
    outcomes = []
    with Progress(len(grid.trials), "runs", "comparing") as progress:
        for number, trial in enumerate(grid.trials, 1):
            outcomes.append(_outcome(source, grid.shared, trial, directory))
            progress.update(number, run=trial.label)
    if all(outcome.failure for outcome in outcomes):
        first = outcomes[0]
        raise UserError(
            "none of the runs succeeded",
            where=first.run,
            why=first.failure,
            fix="mend that first; the others follow",
        )
    return outcomes


def _claim(directory: Path, asked: Sequence[str]) -> None:
    note = directory / ASKED
    if note.is_file():
        if read_json(note)["asked"] != list(asked):
            raise UserError(
                "there is another comparison here already", where=str(directory), fix="choose another --out"
            )
        return
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise UserError("something else is here already", where=str(directory), fix="choose another --out")
    with writing(directory):
        directory.mkdir(parents=True, exist_ok=True)
    write_json(note, {"asked": list(asked)})


def _outcome(source: str, shared: Sequence[str], trial: Trial, directory: Path) -> Outcome:
    place = directory / trial.slug
    if not _finished(place):
        failure = _train(
            [source, *shared, *trial.arguments, "--out", str(place)], directory / f"{trial.slug}.log"
        )
        if failure:
            return Outcome(trial, str(place), failure=failure)
    run = Run.open(place)
    losses = [row["eval_loss"] for row in run.metrics() if "eval_loss" in row]
    if not losses:
        return Outcome(trial, str(place), failure="nothing was held out, so there is nothing to compare by")
    files = [file for kept in KEPT for file in (place / kept).rglob("*.safetensors")]
    return Outcome(
        trial, str(place), losses[-1], run.state.get("trained_parameters", run.state["parameters"]),
        run.state["peak_memory_bytes"], run.state["seconds"], sum(file.stat().st_size for file in files),
    )  # fmt: skip


def _finished(place: Path) -> bool:
    return Run.exists(place) and Run.open(place).state["status"] == "done"


def _train(arguments: list[str], log: Path) -> str:
    """Trains in another process, its progress in a file; why it failed, or nothing."""
    command = [sys.executable, "-m", "lmcraft", "train", *arguments, "--json"]
    with log.open("w", encoding="utf-8") as file:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=file, text=True, check=False)
    if done.returncode == 0:
        return ""
    try:
        error = json.loads(done.stdout)["error"]
    except (ValueError, KeyError):  # killed, by the system for memory or by a person
        return f"its process ended with code {done.returncode}; see {log}"
    return "; ".join(str(error[part]) for part in ("what", "why", "fix") if error[part])
