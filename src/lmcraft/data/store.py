"""The local store: what `lmcraft pull` fetched, by name, under LMCRAFT_HOME/store.

1. An entry is a folder with its files and an `entry.json` that says what it is, where it came from, its licence and
   the SHA-256 of its content. It is made under a temporary name and renamed, so an entry is whole or not there.
2. A lock file for each name keeps two pulls apart; leftovers of one that died are removed by the next.
3. `resolve` is the only way a name becomes a path. A path that exists comes first; a name is small letters, digits,
   dots and dashes, so no name reaches outside the store.

Proved by tests/unit/data/test_store.py.
"""

from __future__ import annotations

import contextlib
import difflib
import fcntl
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..core.device import home
from ..core.disk import digest, fsync, read_json, write_json, writing
from ..core.errors import UserError
from . import catalog

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_RECORD = "entry.json"


@dataclass(frozen=True, slots=True)
class Stored:
    """What `entry.json` says of one entry; `content` is the file or folder in it that the name stands for."""

    name: str
    kind: str
    content: str
    what: str
    source: str
    licence: str
    sha256: str
    bytes: int
    pulled: str
    counts: dict[str, int] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        """The data file, the .gguf file or the model directory."""
        return path(self.name) / self.content


_TYPES = {
    each.name: {"str": str, "int": int}.get(each.type, dict) for each in fields(Stored) if each.name != "name"
}


def folder() -> Path:
    """Where the entries are."""
    return home() / "store"


def path(name: str) -> Path:
    """The folder of an entry, whether it exists or not; UserError when `name` cannot be one."""
    if not _NAME.fullmatch(name):
        raise UserError(
            f"{name!r} cannot be a name in the store",
            why="names have small letters, digits, dots and dashes, at most 64, and begin with a letter or digit",
        )
    return folder() / name


def has(name: str) -> bool:
    """Whether the store holds an entry of this name."""
    return bool(_NAME.fullmatch(name)) and (folder() / name / _RECORD).is_file()


def get(name: str) -> Stored:
    """What is known of an entry; UserError when it is not there or its entry.json is damaged."""
    if not has(name):
        raise _missing(name)
    place = path(name) / _RECORD
    facts = read_json(place)
    if not isinstance(facts, dict) or {key: type(value) for key, value in facts.items()} != _TYPES:
        raise UserError(
            "the record of a store entry is damaged",
            where=str(place),
            fix=f"remove {place.parent} and pull it again",
        )
    return Stored(name=name, **facts)


def entries() -> list[Stored]:
    """Every entry of the store, by name."""
    if not folder().is_dir():
        return []
    return [get(place.name) for place in sorted(folder().iterdir()) if has(place.name)]


def resolve(name: str | Path) -> Path:
    """The path that a user's word for data or a model stands for: a path that exists, or a name in the store.

    Raises:
        UserError: neither; says how to get it when the catalog knows the name.
    """
    given = Path(name).expanduser()
    if given.exists() or not _NAME.fullmatch(str(name)):
        return given
    return get(str(name)).path if has(str(name)) or not given.suffix else given


def _missing(name: str) -> UserError:
    if name in catalog.ENTRIES:
        return UserError(f"{name} is not in the local store yet", fix=f"lmcraft pull {name}")
    known = [*(stored.name for stored in entries()), *catalog.ENTRIES]
    near = difflib.get_close_matches(name, known, n=1)
    return UserError(
        f"there is no file and nothing in the store called {name!r}",
        why=f"did you mean {near[0]}?" if near else None,
        fix="`lmcraft models` lists what there is",
    )


@contextlib.contextmanager
def adding(name: str, facts: dict[str, Any]) -> Iterator[Path]:
    """A temporary folder to fill; at the end of the block it becomes the entry `name`.

    Args:
        facts: the fields of `Stored` without name, sha256, bytes and pulled; the block may still change them.
    """
    final = path(name)
    temporary = final.with_name(f".{name}.part")
    with writing(final), _locked(name):
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        try:
            yield temporary
            content = temporary / facts["content"]
            made = {
                **facts,
                "sha256": digest(content),
                "bytes": sum(
                    file.stat().st_size for file in [content, *content.rglob("*")] if file.is_file()
                ),
                "pulled": datetime.now(UTC).isoformat(timespec="seconds"),
            }
            for file in temporary.rglob("*"):
                fsync(file)
            write_json(temporary / _RECORD, made)
            if final.exists():
                shutil.rmtree(final)
            temporary.rename(final)
            fsync(folder())
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def _locked(name: str) -> Iterator[None]:
    folder().mkdir(parents=True, exist_ok=True)
    with (folder() / f".{name}.lock").open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"{name} is being pulled by another process", fix="wait until it is done"
            ) from error
        yield
