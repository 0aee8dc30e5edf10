"""Put a data file or a model of one's own into the local store, so that a name stands for it.

1. Data must be readable as records, at least one; a model is a .gguf file or a directory in the public layout.
2. Of a directory, only files that hold no code are copied: safetensors, JSON, templates, vocabularies, licence and read
   me. Pickled weights (.bin, .pt) are left behind and never opened.
3. The copy is independent: the original may move or change.

Proved by tests/unit/data/test_own.py.
"""

from __future__ import annotations

import fnmatch
import re
import shutil
from pathlib import Path
from typing import Any

from ..core.disk import free_space
from ..core.errors import UserError
from . import catalog, read, store
from .load import load

_MODEL_FILES = (
    "*.safetensors", "*.safetensors.index.json", "config.json", "generation_config.json", "adapter_config.json",
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
    "vocab.txt", "merges.txt", "chat_template.jinja", "chat_template.json", "LICENSE*", "NOTICE*", "README*",
)  # fmt: skip
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
        files = _model_files(path)
        facts |= {"kind": "model", "content": _FOLDER, "what": "a model directory"}
    elif path.suffix.lower() == ".gguf":
        files = [path]
        _require_gguf(path)
        facts |= {"kind": "model", "content": path.name, "what": "a model in GGUF"}
    else:
        files = [path]
        facts |= {"kind": "data", "content": path.name, **_described(path)}
    size = sum(file.stat().st_size for file in files)
    free_space(store.folder(), size)
    with store.adding(name, facts) as target:
        place = target / _FOLDER if path.is_dir() else target
        place.mkdir(exist_ok=True)
        for file in files:
            shutil.copyfile(file, place / file.name)
    return store.get(name)


def name_of(path: Path) -> str:
    """The file name without extensions, in the letters that a store name has."""
    stem = path.resolve().name
    for end in (".gz", ".gguf", *read.SUFFIXES):
        stem = stem.removesuffix(end)
    return re.sub(r"[^a-z0-9._-]+", "-", stem.lower()).strip("-._")[:64] or "unnamed"


def _described(path: Path) -> dict[str, Any]:
    loaded = load([path])
    if not loaded.records:
        loaded.require()
    return {
        "what": f"{loaded.shape} rows of {path.name}",
        "counts": {"records": len(loaded.records), "problems": len(loaded.problems)},
    }


def _require_gguf(path: Path) -> None:
    with path.open("rb") as file:
        magic = file.read(4)
    if magic != b"GGUF":
        raise UserError(
            "this is not a GGUF file", where=str(path), why=f"it begins with {magic!r}, not b'GGUF'"
        )


def _model_files(folder: Path) -> list[Path]:
    files = [
        file
        for file in sorted(folder.iterdir())
        if file.is_file() and any(fnmatch.fnmatchcase(file.name, pattern) for pattern in _MODEL_FILES)
    ]
    names = {file.name for file in files}
    if not {"config.json", "adapter_config.json"} & names:
        raise UserError(
            "this is not a model directory", where=str(folder), why="it has no config.json",
            fix="of a run, take the folder model/ in it",
        )  # fmt: skip
    if not any(name.endswith(".safetensors") for name in names):
        raise UserError(
            "the model directory has no safetensors", where=str(folder),
            why="pickled weights can hold code and are not read", fix="save the model as safetensors first",
        )  # fmt: skip
    return files
