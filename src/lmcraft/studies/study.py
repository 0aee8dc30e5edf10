"""Runs a study: its settings, its directory, the measurement, and the page that tells what was found.

A study is a file of this folder with `QUESTION` (one sentence), a `Config` (a subclass of `Settings`, whose defaults
answer the question in minutes on two cores) and `run(config) → Finding`. On the command line it is called as its file,
with hyphens: `lmcraft study long-memory` is `long_memory.py`.

1. Everything is trained by the product's own loop (`stream.py`) and measured on its own models.
2. study.json is written last. A directory that has one is finished and is never written again.

Proved by tests/contract/test_studies.py and tests/cli/test_study.py.
"""

from __future__ import annotations

import ast
import shlex
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from pydantic import Field

from ..core import config as configs
from ..core import find
from ..core.config import Strict
from ..core.disk import write_text, writing
from ..core.errors import UserError
from ..report import study as page
from ..report.finding import Study

PACKAGES = ("lmcraft", "torch", "numpy")


class Settings(Strict):
    """What every study can be told; its Config adds sizes and steps."""

    seed: int = Field(0, ge=0, lt=2**31, description="of weights and data")


def names() -> list[str]:
    """The studies as they are called on the command line."""
    return [name.replace("_", "-") for name in find.names("studies")]


def question(name: str) -> str:
    """What a study asks; read from its syntax tree, so that a list of studies loads none of them."""
    spec = find_spec(f"lmcraft.studies.{name.replace('-', '_')}")
    if spec is None or spec.origin is None:  # of another package
        return str(find.module("studies", name.replace("-", "_")).QUESTION)
    for node in ast.parse(Path(spec.origin).read_bytes()).body:
        match node:
            case ast.Assign(targets=[ast.Name(id="QUESTION")], value=ast.Constant(value=str(text))):
                return text
    raise AssertionError(f"{spec.origin} has no QUESTION")


def perform(name: str, settings: Sequence[str] = (), out: Path | str | None = None) -> tuple[Path, Study]:
    """Performs a study and writes config.yaml, its figures, report.html and study.json.

    Args:
        settings: `key=value` arguments.
        out: where; default: runs/study-NAME.

    Raises:
        UserError: no such study, a mistake in the settings, or a directory that holds something else.
    """
    if name not in names():
        raise UserError(
            f"there is no study {name!r}{find.suggestion(name, names())}",
            why=f"studies: {', '.join(names())}",
        )
    module = find.module("studies", name.replace("-", "_"))
    config = configs.validate(module.Config, configs.read(None, settings))
    directory = Path(out or f"runs/study-{name}")
    _refuse_to_overwrite(directory)
    with writing(directory):
        directory.mkdir(parents=True, exist_ok=True)
    write_text(directory / "config.yaml", configs.dump(config))
    began, computed = time.monotonic(), time.process_time()
    finding = module.run(config)
    study = Study(
        name=name,
        question=module.QUESTION,
        finding=finding,
        config=config.model_dump(mode="json"),
        command=shlex.join(["lmcraft", "study", name, *settings]),
        seconds=round(time.monotonic() - began, 1),
        cpu_seconds=round(time.process_time() - computed, 1),
        **page.circumstances(PACKAGES),
    )
    page.write(directory, study)
    return directory, study


def _refuse_to_overwrite(directory: Path) -> None:
    if (directory / page.DATA).exists():
        raise UserError(
            "there is a finished study here already", where=str(directory),
            fix=f"open {directory / page.NAME}, or choose another --out",
        )  # fmt: skip
    if directory.exists() and any(directory.iterdir()) and not (directory / "config.yaml").exists():
        raise UserError(
            "this directory is not a study and not empty", where=str(directory), fix="choose another --out"
        )
    if (directory / "origin.json").exists():
        raise UserError("this directory is a run", where=str(directory), fix="choose another --out")
