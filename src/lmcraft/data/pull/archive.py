"""Take named members out of a wheel or source archive, without running anything of it.

1. Only regular files are seen: no links, no devices. Only those whose path was asked for are taken, each to a place
   that the caller names, so no path in an archive matters.
2. Sizes are counted while copying, whatever the archive says of them.

Proved by tests/unit/data/test_archive.py.
"""

from __future__ import annotations

import contextlib
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from ...core.errors import UserError

ARCHIVE_BYTES = 2**33
_CHUNK = 2**20
_MEMBERS = 100_000


def sort(archive: Path) -> str:
    """ "wheel" or "sdist", by the name of the file; UserError when it is neither."""
    if archive.name.endswith(".whl"):
        return "wheel"
    if archive.name.endswith((".tar.gz", ".tgz")):
        return "sdist"
    raise UserError(
        "this is not a package file", where=str(archive), why="it ends neither in .whl nor in .tar.gz"
    )


def names(archive: Path, kind: str) -> list[str]:
    """The paths of all regular files; of a source archive without the folder it begins with."""
    with readable(archive):
        return [name for name, _ in _members(archive, kind)]


def take(archive: Path, kind: str, place: Callable[[str], Path | None], limit: int) -> int:
    """Copy members to where `place` says (None leaves one); returns how many bytes that were.

    Raises:
        UserError: the archive is damaged, two members come to one place, or they unpack to more than `limit` bytes.
    """
    left = limit
    with readable(archive):
        for name, file in _members(archive, kind):
            target = place(name)
            if target is None:
                continue
            if target.exists():
                raise UserError("two members of the package have one name", where=f"{archive}: {name}")
            target.parent.mkdir(parents=True, exist_ok=True)
            left -= _copy(file, target, left, f"{archive}: {name}")
    return limit - left


@contextlib.contextmanager
def readable(archive: Path) -> Iterator[None]:
    """Turns what the archive libraries raise into one UserError."""
    try:
        yield
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise UserError("the package file is damaged", where=str(archive), why=str(error)) from error


def _members(archive: Path, kind: str) -> Iterator[tuple[str, IO[bytes]]]:
    """Every regular file of an archive with its path; of a source archive without the leading folder."""
    if kind == "wheel":
        with zipfile.ZipFile(archive) as wheel:
            for member in wheel.infolist()[:_MEMBERS]:
                is_link = (member.external_attr >> 16) & 0o170000 == 0o120000
                if not member.is_dir() and not is_link and not member.flag_bits & 1:
                    with wheel.open(member) as file:
                        yield member.filename, file
        return
    with tarfile.open(archive, mode="r|gz") as source:
        passed = 0
        for member in source:
            passed += max(member.size, 0) + 512
            if passed > ARCHIVE_BYTES:
                raise UserError(
                    "the package unpacks to too much", where=str(archive), why=f"over {ARCHIVE_BYTES:,} bytes"
                )
            if member.isreg() and (file := source.extractfile(member)) is not None:
                yield member.name.partition("/")[2], file


def _copy(file: IO[bytes], target: Path, limit: int, where: str) -> int:
    size = 0
    with target.open("xb") as copy:
        while chunk := file.read(_CHUNK):
            size += len(chunk)
            if size > limit:
                raise UserError(
                    "the package unpacks to more than it should", where=where, why=f"over {limit:,} bytes"
                )
            copy.write(chunk)
    return size
