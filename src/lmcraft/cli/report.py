"""Rewrites the page of a run, of a demo or of a study from what is in its directory.

Proved by tests/cli/test_report.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..core.errors import UserError
from ..core.run import Run, read_json
from .output import emit

STAGES = ("pretrain", "sft")


def command(
    run: Annotated[Path, typer.Argument(help="The directory of a run, a demo or a study.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Rewrites the page of a run, a demo or a study from what is in its directory: `lmcraft report runs/sft-1`.

    Training writes the page when it is done; this writes it again, also while a run is under way or after it was
    interrupted, and after evaluations. Open the file that is printed in a browser; it needs no network.
    """
    from ..report import page, study

    if Run.exists(run):
        written = page.write(Run.open(run))
    elif (run / "summary.json").is_file():
        summary = read_json(run / "summary.json")
        if not isinstance(summary, dict):
            raise UserError("this is not the summary of a demo", where=str(run / "summary.json"))
        stages = [run / stage for stage in STAGES]
        written = page.write_demo(run, summary, [Run.open(stage) for stage in stages if Run.exists(stage)])
    elif (run / study.DATA).is_file():
        written = study.write(run, study.read(run))
    else:
        raise UserError(
            "this is neither a run nor a demo nor a study",
            where=str(run),
            why="it has no origin.json, summary.json or study.json"
            if run.is_dir()
            else "there is no such directory",
            fix="lmcraft runs lists the runs of a directory",
        )
    emit({"report": str(written)}, as_json, str(written))
