"""Lists the runs of a directory: what each one is, how far it came and what it started from.

Proved by tests/cli/test_runs.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..core.config import parse
from ..core.errors import UserError
from ..core.run import Run
from .output import emit, table


def command(
    directory: Annotated[
        Path, typer.Argument(help="Where the runs are; folders in it are searched too.")
    ] = Path("runs"),
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Lists the runs of a directory: what each one is, how far it came and what it started from."""
    if not directory.is_dir():
        raise UserError("there is no such directory", where=str(directory), fix="lmcraft runs DIRECTORY")
    found = [describe(Run.open(path), directory) for path in _find(directory)]
    found.sort(key=lambda row: (row["created"] or "", row["name"]))
    emit({"runs": found}, as_json, lambda: _text(found, directory))


def describe(run: Run, directory: Path) -> dict[str, Any]:
    """One run in a few fields; a damaged one has status "damaged" and says why, so the others are still listed."""
    name = run.path.relative_to(directory).as_posix()
    row: dict[str, Any] = dict.fromkeys(
        ("name", "stage", "status", "step", "loss", "parents", "created", "problem")
    )
    row["name"] = name if name != "." else run.name
    try:
        state, origin = run.state, run.origin
        losses = [metric["loss"] for metric in run.metrics() if metric.get("loss") is not None]
        stage = parse(run.config_text, "config.yaml").value.get("stage")
        row["stage"] = stage["kind"] if isinstance(stage, dict) else stage
        row["status"], row["step"] = state["status"], state.get("step")
        row["loss"] = losses[-1] if losses else None
        row["parents"] = [Path(parent["path"]).name for parent in origin["parents"]]
        row["created"] = origin["created"]
    except (UserError, KeyError, TypeError, OSError, ValueError) as error:
        row["status"], row["problem"] = "damaged", str(error).replace("\n", " ")
    return row


def _find(directory: Path) -> list[Path]:
    """The runs in a directory, at most three levels down, since demos and comparisons keep theirs in a folder."""
    patterns = ("origin.json", "*/origin.json", "*/*/origin.json", "*/*/*/origin.json")
    return [file.parent for pattern in patterns for file in sorted(directory.glob(pattern))]


def _text(found: list[dict[str, Any]], directory: Path) -> str:
    if not found:
        return f"no runs in {directory}; lmcraft demo makes some"
    headings = ("name", "stage", "status", "steps", "loss", "from", "created")
    rows = [
        [
            *(row[part] for part in ("name", "stage", "status", "step", "loss")),
            ", ".join(row["parents"] or []) or None,
            row["created"],
        ]
        for row in found
    ]
    damaged = [f"{row['name']}: {row['problem']}" for row in found if row["problem"]]
    return "\n".join([table(headings, rows), *damaged])
