"""List what the local store holds and what could be pulled into it.

Proved by tests/cli/test_pull.py.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer

from ..core.disk import digest
from ..core.errors import UserError
from ..core.log import say
from ..data import catalog, store
from ..data.pull import web
from .output import emit, table


def command(
    check: Annotated[
        bool, typer.Option("--check", help="Compare every content with the digest it was stored with.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """List the models and data of the local store, and what `lmcraft pull` can add."""
    found = store.entries()
    wrong = [stored.name for stored in found if check and not _is_whole(stored)]
    result: dict[str, Any] = {
        "folder": str(store.folder()),
        "stored": [{**asdict(stored), "path": str(stored.path)} for stored in found],
        "catalog": [
            {"name": entry.name, "kind": entry.kind, "what": entry.what, "licence": entry.licence}
            for entry in catalog.ENTRIES.values()
            if not store.has(entry.name)
        ],
        "unfinished": [{"file": file.name, "bytes": file.stat().st_size} for file in web.unfinished()],
    }
    if wrong:
        raise UserError(
            f"the content of {', '.join(wrong)} is not what was stored",
            where=str(store.folder()),
            why="the SHA-256 differs from the one in entry.json",
            fix="; ".join(f"lmcraft pull {name} --again" for name in wrong),
        )
    if check:
        say(f"{len(found)} checked, all as they were stored")
    emit(result, as_json, lambda: _text(result))


def _is_whole(stored: store.Stored) -> bool:
    return stored.path.exists() and digest(stored.path) == stored.sha256


def _text(result: dict[str, Any]) -> str:
    rows = [
        [one["name"], one["kind"], f"{one['bytes'] / 1e6:.1f} MB", one["licence"], one["what"]]
        for one in result["stored"]
    ]
    rows += [
        [one["name"], one["kind"], f"lmcraft pull {one['name']}", one["licence"], one["what"]]
        for one in result["catalog"]
    ]
    text = table(["name", "kind", "size", "licence", "what"], rows)
    if left := result["unfinished"]:
        size = sum(one["bytes"] for one in left) / 1e6
        text += (
            f"\n\n{len(left)} unfinished downloads ({size:.1f} MB): pull again, or `lmcraft rm --unfinished`"
        )
    return text
