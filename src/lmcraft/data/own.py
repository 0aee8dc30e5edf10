"""Put a data file or a model of one's own into the local store, so that a name stands for it.

1. Data must be readable as records, at least one; a model is a .gguf file or a directory in the public layout.
2. Of a directory, only files that hold no code are copied: safetensors, JSON, templates, vocabularies, licence and read
   me. Pickled weights (.bin, .pt) are left behind and never opened.
3. The copy is independent: the original may move or change.

Proved by tests/unit/data/test_own.py.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from ..core.disk import free_space
from ..core.errors import UserError
from . import catalog, gguffile, modelfiles, read, store
from .load import load
from .pull.address import store_name

_FOLDER = "model"
_UNKNOWN = "not stated"


def keep(path: Path, name: str | None = None, licence: str | None = None) -> store.Stored:
    """Copy `path` into the store as `name` (default: made from the file name).

    Raises:
        UserError: it is neither data nor a model, or the name is taken by the catalog.
    """
    if not path.exists():
        raise UserError("there is no such file or directory", where=str(path))
    name = name or name_of(path)
    if name in catalog.ENTRIES:
        raise UserError(
            f"the name {name} belongs to the catalog", where=str(path), fix="choose another one with --name"
        )
    store.path(name)
    facts: dict[str, Any] = {"source": str(path.resolve()), "licence": licence or _UNKNOWN, "counts": {}}
    if path.is_dir():
        names = modelfiles.chosen(_names(path), str(path))
        files = [path / one for one in names]
        facts |= {"kind": "model", "content": _FOLDER, "what": "a model directory"}
    elif path.suffix.lower() == ".gguf":
        files = [path]
        gguffile.require(path)
        facts |= {"kind": "model", "content": path.name, "what": "a model in GGUF"}
    elif modelfiles.is_pickle(path.name):
        raise UserError(
            "pickled files are not read", where=str(path), why="reading one can run code that is hidden in it",
            fix="save the model as safetensors first; data as .jsonl, .csv or .parquet",
        )  # fmt: skip
    else:
        files = [path]
        facts |= {"kind": "data", "content": path.name, **_described(path)}
    size = sum(file.stat().st_size for file in files)
    free_space(store.folder(), size)
    with store.adding(name, facts) as target:
        place = target / _FOLDER if path.is_dir() else target
        for file in files:
            copy = place / (file.relative_to(path) if path.is_dir() else file.name)
            copy.parent.mkdir(exist_ok=True)
            shutil.copyfile(file, copy)
    return store.get(name)


def name_of(path: Path) -> str:
    """The file name without extensions, in the letters that a store name has."""
    stem = path.resolve().name
    for end in (".gz", ".gguf", *read.SUFFIXES):
        stem = stem.removesuffix(end)
    return store_name(stem)


def _described(path: Path) -> dict[str, Any]:
    loaded = load([path])
    if not loaded.records:
        loaded.require()
    return {
        "what": f"{loaded.shape} rows of {path.name}",
        "counts": {"records": len(loaded.records), "problems": len(loaded.problems)},
    }


def _names(folder: Path) -> list[str]:
    """The files of a directory and of those in it, as paths: enough to find a model's."""
    return [
        file.relative_to(folder).as_posix()
        for pattern in ("*", "*/*")
        for file in sorted(folder.glob(pattern))
        if file.is_file()
    ]
