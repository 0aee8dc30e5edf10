"""Merge: write an adapter into the weights of its base, and check that the model answers as before.

Proved by tests/cli/test_adapter.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..core.errors import UserError
from ..core.log import say
from . import settings as s
from .output import emit


def command(
    run: Annotated[str, typer.Argument(help="A run with an adapter, or an adapter's directory.")],
    out: Annotated[Path, typer.Option(help="Directory of the new model.")],
    base: Annotated[str | None, typer.Option(help="The base, if it is not where the adapter says.")] = None,
    strength: Annotated[float, typer.Option(help="1 as trained, 0 the base alone.")] = 1.0,
    as_json: s.AsJson = False,
) -> None:
    """Make one plain model of an adapter and its base: `lmcraft merge runs/chat --out models/chat`.

    A quantized base is written as the numbers that it computed with, for those are what the adapter was trained beside.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError("there is something here already", where=str(out), fix="choose another --out")
    from .. import api

    lm = api.load(run, base)
    if not lm.adapters:
        raise UserError("there is no adapter to merge", where=run, why="it is a model of its own already")
    lm.set_strength(strength)
    difference = lm.merge(out)
    result = {"run": run, "model": str(out), "strength": strength, "largest_difference_of_logits": difference}
    emit(result, as_json, lambda: say(f"{out}: logits differ by at most {difference:.2e} from before"))
