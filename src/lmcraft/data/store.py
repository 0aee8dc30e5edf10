"""The local store: what `lmcraft pull` fetched, by name, under LMCRAFT_HOME/store.

1. An entry is a folder with its files and an `entry.json` that says what it is, where it came from, its licence and
   the SHA-256 of its content and of each file. It is made under a temporary name and renamed, so an entry is whole or
   not there. The bytes of its files are shared by digest (`blobs`).
2. A lock file for each name keeps two pulls apart; leftovers of one that died are removed by the next.
3. `resolve` is the only way a name becomes a path. A path that exists comes first; a name is small letters, digits,
   dots and dashes, so no name reaches outside the store. `NAME/PART` is the file PART.jsonl beside the content, for
   data that comes divided (`conll2003/test`).
4. Entries made before there were blobs have no `files` in their record; they are read, copied and removed like others.

Proved by tests/unit/data/test_store.py.
"""

from __future__ import annotations

import contextlib
import difflib
import fcntl
import os
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
from . import blobs, catalog

_NAME = re.compile(r"(?!blobs$)[a-z0-9][a-z0-9._-]{0,63}")
_PART = re.compile(r"([a-z0-9][a-z0-9._-]{0,63})/([a-z0-9_-]{1,64})")
_RECORD = "entry.json"
_LONGEST_FILE_NAME = 255  # bytes, on every disk in use


@dataclass(frozen=True, slots=True)
class Stored:
    """What `entry.json` says of one entry.

    Attributes:
        content: the file or folder in it that the name stands for.
        sha256: digest of the content; see `core.disk.digest` for a folder's.
        files: SHA-256 of every file, by its path in the entry; empty for entries of the first layout.
    """

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
    files: dict[str, str] = field(default_factory=dict)

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
    if isinstance(facts, dict):
        facts.setdefault("files", {})
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
    given = Path(os.path.expanduser(name))
    if os.path.exists(given):
        return given
    if len(given.name.encode("utf-8", "surrogatepass")) > _LONGEST_FILE_NAME or "\0" in str(name):
        raise UserError("this can be neither a name nor a path", where=ascii(str(name))[:80])
    if part := _PART.fullmatch(str(name)):
        return _part(*part.groups()) or given
    if not _NAME.fullmatch(str(name)):
        return given
    return get(str(name)).path if has(str(name)) or not given.suffix else given


def _part(name: str, part: str) -> Path | None:
    """The file of one part of an entry, or None when the store knows nothing of the name."""
    if not has(name):
        if name in catalog.ENTRIES:
            raise _missing(name)
        return None
    file = path(name) / f"{part}.jsonl"
    if not file.is_file():
        parts = ", ".join(f"{name}/{one.stem}" for one in sorted(path(name).glob("*.jsonl")))
        raise UserError(f"{name} has no part {part}", why=f"it has {parts}" if parts else None)
    return file


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
            files = [file for file in sorted(temporary.rglob("*")) if file.is_file()]
            made = {
                **facts,
                "sha256": digest(content),
                "bytes": sum(file.stat().st_size for file in files if content in (file, *file.parents)),
                "pulled": datetime.now(UTC).isoformat(timespec="seconds"),
                "files": {file.relative_to(temporary).as_posix(): blobs.keep(file) for file in files},
            }
            for place in temporary.rglob("*"):
                fsync(place)
            write_json(temporary / _RECORD, made)
            _removed(final)
            temporary.rename(final)
            fsync(folder())
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def copy(name: str, new: str) -> Stored:
    """Give the content of an entry a second name; its bytes are shared, not copied.

    Raises:
        UserError: there is no `name`, `new` is taken or reserved, or a file of `name` was damaged on the disk.
    """
    old = get(name)
    path(new)
    if new in catalog.ENTRIES or has(new):
        raise UserError(
            f"the name {new} is taken", where=str(path(new)),
            why="it belongs to the catalog" if new in catalog.ENTRIES else None, fix="choose another name",
        )  # fmt: skip
    facts = {
        part.name: getattr(old, part.name)
        for part in fields(Stored)
        if part.name not in ("name", "sha256", "bytes", "pulled", "files")
    }
    with adding(new, facts) as target:
        for file in _files(path(name)):
            place = target / file
            place.parent.mkdir(parents=True, exist_ok=True)
            blobs.link(path(name) / file, place)
        if digest(target / old.content) != old.sha256:
            raise UserError(
                f"the content of {name} is not what was stored", where=str(old.path),
                why="the SHA-256 differs from the one in entry.json", fix=f"lmcraft pull {name} --again",
            )  # fmt: skip
    return get(new)


def remove(name: str) -> int:
    """Take an entry out of the store with the blobs that no other entry needs; returns how many bytes that freed."""
    if not has(name):
        raise _missing(name)
    place = path(name)
    with writing(place), _locked(name):
        alone = sum(
            facts.st_size
            for file in _files(place)
            if (facts := (place / file).stat()).st_nlink == 1  # shared bytes are counted when their blob goes
        )
        _removed(place)
        fsync(folder())
        return alone + blobs.collect(_needed())


def _files(place: Path) -> list[str]:
    """The files of an entry but for its record, as paths in it."""
    found = [file.relative_to(place).as_posix() for file in sorted(place.rglob("*")) if file.is_file()]
    return [file for file in found if file != _RECORD]


def _needed() -> set[str]:
    """The digests that some entry names; a damaged record names none, but its files are still linked."""
    needed: set[str] = set()
    for place in folder().iterdir():
        if has(place.name):
            with contextlib.suppress(UserError):
                needed |= set(get(place.name).files.values())
    return needed


def _removed(place: Path) -> None:
    """Removes an entry so that a crash on the way leaves it whole or without its name."""
    if not place.exists():
        return
    gone = place.with_name(f".{place.name}.gone")
    shutil.rmtree(gone, ignore_errors=True)
    place.rename(gone)
    shutil.rmtree(gone)


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
