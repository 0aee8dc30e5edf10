"""Give a model or data of the local store a second name; no bytes are copied.

Proved by tests/pull/test_verbs.py.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from ..data import store
from .output import emit


def command(
    name: Annotated[str, typer.Argument(help="A name in the store.")],
    new: Annotated[str, typer.Argument(help="The second name.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Give what is stored a second name: `lmcraft cp smollm2 assistant`.

    Both names share one copy of the bytes on the disk. Removing one leaves the other.
    """
    stored = store.copy(name, new)
    result = {**asdict(stored), "path": str(stored.path)}
    emit(result, as_json, f"{new}: the same as {name} ({stored.bytes:,} bytes, shared)")
