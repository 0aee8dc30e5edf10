"""Files that are whole or absent: atomic writes, JSON lines that survive crashes, digests, messages for a full disk.

1. A file appears under its name only when it is complete: temporary name, fsync, rename, fsync of the directory.
2. Logs are appended with one `write` a row; a row torn by a crash is left out by readers
   and cut off by the next append.
3. JSON has no NaN: non-finite numbers are written as null, so every reader accepts what we write.

Proved by tests/unit/core/test_disk.py.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from .errors import UserError


def digest(path: Path | str, pattern: str = "*") -> str:
    """SHA-256 of a file's bytes, or of the sorted names and digests of all files under a directory."""
    path = Path(path)
    if not path.is_dir():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    total = hashlib.sha256()
    for file in sorted(file for file in path.rglob(pattern) if file.is_file()):
        total.update(f"{file.relative_to(path).as_posix()}\0{digest(file)}\n".encode())
    return total.hexdigest()


def free_bytes(path: Path | str) -> int:
    """Bytes an ordinary user can still write at `path` (or where it would be made)."""
    place = Path(path).absolute()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def free_space(path: Path | str, bytes_needed: int) -> None:
    """Raises a UserError that names path and bytes if `bytes_needed` do not fit on the disk of `path`."""
    if free_bytes(path) < bytes_needed:
        raise _full(path, bytes_needed)


@contextlib.contextmanager
def writing(path: Path | str, bytes_needed: int | None = None) -> Iterator[None]:
    """Turns a full or failing disk, or a missing permission, into a UserError that names path and bytes needed."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        code = error.errno if isinstance(error, OSError) else _rust_errno(error)
        if code in (errno.ENOSPC, errno.EDQUOT):
            raise _full(path, bytes_needed) from error
        if code not in _CANNOT_WRITE:
            raise
        raise UserError(f"cannot write: {os.strerror(code)}", where=str(path)) from error


_CANNOT_WRITE = {
    errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.EEXIST,
    errno.EFBIG, errno.ENOTSUP, errno.ENOLCK,
}  # fmt: skip


def _rust_errno(error: Exception) -> int | None:
    """safetensors raises errors of its own; the number of the system's error is only in their text."""
    found = re.search(r"\(os error (\d+)\)", str(error))
    return int(found[1]) if found else None


def write_text(path: Path | str, text: str) -> Path:
    """Writes a file so that a crash at any moment leaves the old content or the new one, never a mix."""
    return write_bytes(path, text.encode())


def write_bytes(path: Path | str, content: bytes) -> Path:
    """`write_text` for bytes. One process at a time may write a path, since the temporary name is fixed."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.tmp")
    with writing(path, len(content)):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        fsync(path.parent)
    return path


def write_json(path: Path | str, value: Any) -> Path:
    """Writes a value as indented JSON, atomically."""
    return write_text(path, to_json(value, indent=2) + "\n")


def write_rows(path: Path | str, rows: Iterable[Mapping[str, Any]]) -> int:
    """Writes a JSON lines file, atomically; returns how many rows it has."""
    lines = [to_json(row) + "\n" for row in rows]
    write_text(path, "".join(lines))
    return len(lines)


def read_json(path: Path | str) -> Any:
    """The value in a JSON file; a damaged file is a UserError with its line."""
    try:
        return json.loads(Path(path).read_bytes())
    except OSError as error:
        raise UserError(f"cannot read: {error.strerror}", where=str(path)) from error
    except json.JSONDecodeError as error:
        raise UserError(f"not valid JSON: {error.msg}", where=f"{path}:{error.lineno}") from error
    except UnicodeDecodeError as error:
        raise UserError("not UTF-8 text", where=str(path)) from error


def append_row(path: Path | str, row: Mapping[str, Any]) -> None:
    """Appends one JSON line; first cuts off a line torn by a crash; takes back what a full disk cut short."""
    line = to_json(row).encode() + b"\n"
    with writing(path, len(line)):
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            end = _whole_lines_end(handle)
            os.ftruncate(handle, end)
            try:
                written = 0
                while written < len(line):
                    written += os.pwrite(handle, line[written:], end + written)
            except OSError:
                os.ftruncate(handle, end)
                raise
        finally:
            os.close(handle)


def read_rows(path: Path | str) -> list[dict[str, Any]]:
    """The rows of a JSON lines file ([] if there is none), without a torn last line.

    Raises:
        UserError: a line before the last is damaged.
    """
    path = Path(path)
    if not path.exists():
        return []
    rows = []
    *whole, _torn_or_empty = path.read_bytes().split(b"\n")
    for number, line in enumerate(whole, start=1):
        try:
            rows.append(json.loads(line))
        except ValueError as error:
            raise UserError("a damaged line", where=f"{path}:{number}", why=str(error)) from error
    return rows


def to_json(value: Any, indent: int | None = None) -> str:
    """JSON text that every reader accepts: NaN and infinities, which JSON does not have, become null."""
    return json.dumps(_finite(value), indent=indent, ensure_ascii=False, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    return value


def _full(path: Path | str, bytes_needed: int | None) -> UserError:
    needed = "" if bytes_needed is None else f"needs {bytes_needed:,} bytes, "
    return UserError(
        "the disk is full",
        where=str(path),
        why=f"{needed}{free_bytes(path):,} bytes are free",
        fix="free some space, or choose another --out; the same command then goes on where it stopped",
    )


def fsync(path: Path) -> None:
    """Forces a file or directory to disk."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _whole_lines_end(handle: int) -> int:
    """The offset after the last newline of a file: its size, unless a crash tore the last line."""
    end = os.fstat(handle).st_size
    while end > 0:
        start = max(0, end - 4096)
        newline = os.pread(handle, end - start, start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0
