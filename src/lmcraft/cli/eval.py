"""Eval: measure a model with one of the evaluations.

Proved by tests/cli/test_life.py.
"""

from __future__ import annotations

from typing import Annotated

import typer

from ..core import find
from ..core.errors import UserError
from .output import emit, table


def command(
    model: Annotated[str, typer.Argument(help="A run, a model directory or a name in the store.")],
    kind: Annotated[str, typer.Argument(help="Which evaluation: perplexity, labels, reward, …")],
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="FILE… KEY=VALUE…", help="Data and settings; a run is measured on its held-out data."
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Use only the first records.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Measure a model: `lmcraft eval runs/book perplexity other-book.txt window=512 stride=256`.

    Without files, a run is measured on the part of its own data that was held out from training.
    """
    if kind not in find.names("evals"):
        find.module("evals", kind)
        raise UserError(f"{kind!r} is not an evaluation")
    given = arguments or []
    files, settings = [a for a in given if "=" not in a], [a for a in given if "=" in a]
    from .. import api

    result = api.evaluate(model, kind, files, settings, limit)
    rows = [[name, value] for name, value in result.metrics.items()]
    shown = {
        "model": model,
        "kind": kind,
        "metrics": result.metrics,
        "settings": result.settings,
        "files": files,
        "tables": result.tables,
    }
    note = ", ".join(f"{key} {value}" for key, value in result.settings.items())
    parts = [
        table(["metric", "value"], rows),
        *(table(t["columns"], t["rows"]) for t in result.tables.values()),
    ]
    emit(shown, as_json, "\n\n".join(parts) + f"\n({note})")
