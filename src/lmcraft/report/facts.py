"""What a run directory holds, read for the report: missing or damaged parts are noted and never stop the page.

Proved by tests/unit/report/test_facts.py.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ..core import config as configs
from ..core.errors import UserError
from ..core.run import Run, read_json
from .words import number

_ANCESTORS = 20


@dataclass(frozen=True)
class Ancestor:
    """A run or model that this run comes from; `depth` 0 is a parent, 1 a grandparent."""

    name: str
    stage: str
    digest: str
    depth: int
    link: str | None


@dataclass(frozen=True)
class Facts:
    """Everything a page tells of one run; `problems` are the files that could not be read, and why."""

    run: Run
    config_text: str
    config: dict[str, Any]
    state: dict[str, Any]
    origin: dict[str, Any]
    data: dict[str, Any]
    metrics: list[dict[str, Any]]
    samples: list[dict[str, Any]]
    evals: dict[str, dict[str, Any]]
    ancestors: list[Ancestor]
    problems: list[str] = field(default_factory=list)

    @property
    def stage(self) -> str:
        return stage_of(self.config)

    @property
    def status(self) -> str:
        return str(self.state.get("status", "unknown"))

    def setting(self, *keys: str) -> Any:
        """A value of the config, or None."""
        value: Any = self.config
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        return value

    def column(self, name: str) -> list[float]:
        """The finite values of one column of metrics.jsonl, in order."""
        return [value for row in self.metrics if (value := number(row.get(name))) is not None]

    @property
    def files(self) -> list[str]:
        """The data files as the user named them."""
        named = self.setting("data", "files")
        return [str(name) for name in (named if isinstance(named, list) else mapping(self.data.get("files")))]

    @property
    def step(self) -> int:
        """The last step that was taken."""
        steps = [self.state.get("step"), *(row.get("step") for row in self.metrics[-1:])]
        return max((int(step) for step in steps if number(step) is not None), default=0)

    @property
    def tokens_read(self) -> float | None:
        """Tokens that went through the model: the passes over the data times the tokens of one pass."""
        passes, once = self.column("epoch"), number(self.data.get("rows: tokens"))
        return passes[-1] * once if passes and once is not None else None

    @property
    def tokens_trained(self) -> float | None:
        """Targets of all steps."""
        targets = self.column("targets")
        return sum(targets) if targets else None


def read(run: Run) -> Facts:
    """Reads a run."""
    problems: list[str] = []

    def attempt(name: str, reader: Callable[[], Any], default: Any) -> Any:
        try:
            found = reader()
        except (UserError, OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            problems.append(f"{name}: {error}".replace("\n", " "))
            return default
        return found if isinstance(found, type(default)) else default

    def json_of(name: str) -> dict[str, Any]:
        file = run.path / name
        return attempt(name, lambda: read_json(file), {}) if file.exists() else {}

    def rows_of(name: str, reader: Callable[[], list]) -> list[dict[str, Any]]:
        return [row for row in attempt(name, reader, []) if isinstance(row, dict)]

    evals = sorted((run.path / "evals").glob("*.json"))
    text = attempt("config.yaml", lambda: run.config_text, "")
    origin = json_of("origin.json")
    return Facts(
        run=run,
        config_text=text,
        config=attempt("config.yaml", lambda: configs.parse(text, "config.yaml").value, {}),
        state=attempt("state.json", lambda: run.state, {}),
        origin=origin,
        data=json_of("data.json"),
        metrics=rows_of("metrics.jsonl", run.metrics),
        samples=rows_of("samples.jsonl", run.samples),
        evals={file.stem: json_of(f"evals/{file.name}") for file in evals},
        ancestors=attempt("origin.json", lambda: list(_ancestors(run.path, origin)), []),
        problems=problems,
    )


def mapping(value: Any) -> dict[str, Any]:
    """The value if it is a mapping, else an empty one."""
    return value if isinstance(value, dict) else {}


def stage_of(config: dict[str, Any]) -> str:
    """The stage that a config names; a stage without options may be a single word."""
    stage = config.get("stage")
    return str(mapping(stage).get("kind") or (stage if isinstance(stage, str) else "") or "training")


def _ancestors(path: Path, origin: dict[str, Any]) -> Iterator[Ancestor]:
    """Parents and their parents, as far as they are runs that are still there; each run once."""
    waiting = [(path, parent, 0) for parent in origin.get("parents") or []]
    seen: set[Path] = {path.resolve()}
    while waiting and len(seen) < _ANCESTORS:
        child, parent, depth = waiting.pop(0)
        place = Path(os.path.normpath(child / parent["path"]))
        if place.resolve() in seen:
            continue
        seen.add(place.resolve())
        stage, link = "", None
        if Run.exists(place):
            stage = stage_of(mapping(configs.parse(Run(place).config_text, "config.yaml").value))
            waiting[:0] = [(place, older, depth + 1) for older in Run(place).origin.get("parents") or []]
            if not Path(parent["path"]).is_absolute():  # it lies beside the run, so both can move together
                link = quote(os.path.relpath(place.resolve(), path.resolve())) + "/report.html"
        yield Ancestor(place.name, stage, str(parent.get("digest", "")), depth, link)
