"""Trainings with several processes, all started from one process that imports torch once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

DRIVER = Path(__file__).with_name("driver.py")
Together = Callable[[list[dict]], Path]


@pytest.fixture(scope="module")
def together(tmp_path_factory) -> Together:
    """Runs jobs (see driver.py) one after the other; gives the folder with their results."""

    def run(jobs: list[dict]) -> Path:
        folder = tmp_path_factory.mktemp("together")
        (folder / "jobs.json").write_text(json.dumps(jobs))
        done = subprocess.run(
            [sys.executable, str(DRIVER), str(folder / "jobs.json"), str(folder)],
            env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=600,
        )  # fmt: skip
        said = "\n".join(f"{file.name}: {file.read_text()}" for file in folder.glob("*.txt"))
        assert done.returncode == 0, f"{done.stderr}\n{said}"
        return folder

    return run
