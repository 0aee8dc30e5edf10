"""The contents of the store by their SHA-256, so that entries which share a file share its bytes.

1. A file of an entry is a hard link to `store/blobs/<sha256>`. Where the disk knows no hard links an entry keeps a file
   of its own and nothing is shared; everything else is the same.
2. A blob is only trusted after it was read: one that rotted on the disk is replaced by the good file that comes.
3. `collect` removes a blob when no entry names it *and* no other file is linked to it, so a damaged record or an entry
   that another process is making loses nothing.
4. Blobs are read-only: writing into a file of one entry would change the others that share it.

Proved by tests/unit/data/test_blobs.py.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from ..core.device import home
from ..core.disk import digest, fsync

SHA256 = re.compile(r"[0-9a-f]{64}")
_READ_ONLY = 0o444


def folder() -> Path:
    """Where the blobs are."""
    return home() / "store" / "blobs"


def path(sha256: str) -> Path:
    """The file of a digest, whether it is there or not; ValueError when the text is no digest."""
    if not SHA256.fullmatch(sha256):
        raise ValueError(f"not a SHA-256: {sha256!r}")
    return folder() / sha256


def keep(file: Path) -> str:
    """Make a file of an entry share its bytes with the blob of its digest; returns the digest."""
    sha256 = digest(file)
    blob = path(sha256)
    file.chmod(_READ_ONLY)
    fsync(file)
    folder().mkdir(parents=True, exist_ok=True)
    try:
        if blob.exists() and (blob.samefile(file) or digest(blob) == sha256):
            _replace(blob, file)
        else:
            _replace(file, blob)
            fsync(folder())
    except OSError:  # no hard links here, or the blob went meanwhile: the entry keeps its own file
        return sha256
    return sha256


def put(sha256: str, target: Path) -> bool:
    """Place a blob at `target` if the store has it, unharmed; returns whether."""
    blob = path(sha256)
    if not blob.is_file() or digest(blob) != sha256:
        return False
    link(blob, target)
    return True


def link(source: Path, target: Path) -> None:
    """Another name for the bytes of a file, or a copy where the disk knows no hard links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def stored() -> Iterator[Path]:
    """Every blob."""
    if folder().is_dir():
        yield from (file for file in sorted(folder().iterdir()) if SHA256.fullmatch(file.name))


def collect(needed: set[str]) -> int:
    """Remove the blobs that nobody needs; returns how many bytes that freed."""
    freed = 0
    for blob in stored():
        facts = blob.stat()
        if blob.name not in needed and facts.st_nlink == 1:
            blob.unlink()
            freed += facts.st_size
    return freed


def _replace(source: Path, target: Path) -> None:
    """`target` becomes a link to the bytes of `source`, in one step."""
    if target.exists() and target.samefile(source):
        return
    temporary = target.with_name(f".{target.name}.{os.getpid()}.link")
    temporary.unlink(missing_ok=True)
    os.link(source, temporary)
    temporary.replace(target)
