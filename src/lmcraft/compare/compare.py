"""Compares settings: performs the runs, judges them, and writes the page.

Proved by tests/cli/test_compare.py.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from pathlib import Path

from ..report import study
from ..report.finding import Study
from . import grid as grids
from . import page, trials, verdict
from .verdict import Verdict

PACKAGES = ("lmcraft", "torch")
QUESTION = "Which of these settings is worth its cost here?"


def perform(source: str, arguments: Sequence[str], directory: Path) -> tuple[Study, Verdict]:
    """Performs every run of a comparison that is not finished, and writes report.html, compare.png and study.json.

    Args:
        source: what `lmcraft train` takes: a YAML file or the name of a stage.
        arguments: `key=value` for all runs, `key=a,b,c` for what is compared, `seed=1,2,3` for repetitions.

    Raises:
        UserError: nothing to compare, another comparison in the directory, or no run that succeeded.
    """
    began = time.monotonic()
    grid = grids.read(arguments)
    outcomes = trials.perform(source, grid, directory)
    judged = verdict.judge(outcomes)
    done = Study(
        name="compare", question=QUESTION, finding=page.finding(judged, outcomes),
        config={"source": source, "settings": list(arguments)},
        command=shlex.join(["lmcraft", "compare", source, *arguments, "--out", str(directory)]),
        seconds=round(time.monotonic() - began, 1), **study.circumstances(PACKAGES),
    )  # fmt: skip
    study.write(directory, done)
    return done, judged
