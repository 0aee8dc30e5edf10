"""Remove models and data from the local store; what other entries share stays.

Proved by tests/pull/test_verbs.py.
"""

from __future__ import annotations

from typing import Annotated

import typer

from ..core.errors import UserError
from ..data import store
from ..data.pull import web
from .output import emit


def command(
    names: Annotated[list[str] | None, typer.Argument(help="Names in the store.", metavar="NAME…")] = None,
    unfinished: Annotated[
        bool, typer.Option("--unfinished", help="Also remove what interrupted pulls left to go on from.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Remove what was pulled: `lmcraft rm smollm2`.

    Runs and files of yours are never touched: only names of `lmcraft models` can be given. A file that two entries
    share goes with the last of them.
    """
    if not names and not unfinished:
        raise UserError("nothing is named", fix="lmcraft rm NAME; `lmcraft models` lists the names")
    wanted = list(dict.fromkeys(names or []))
    for name in wanted:  # all or none: a typo in the second name must not cost the first
        store.get(name)
    freed = sum(store.remove(name) for name in wanted)
    left = web.unfinished() if unfinished else []
    for file in left:
        freed += file.stat().st_size
        file.unlink()
    result = {"removed": wanted, "unfinished": len(left), "freed_bytes": freed}
    gone = [*wanted, *([f"{len(left)} unfinished downloads"] if unfinished else [])]
    emit(result, as_json, f"removed {', '.join(gone)}: {freed:,} bytes freed")
