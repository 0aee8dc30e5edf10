"""Read a text file line by line, plain or .gz, in bounded memory, each line checked to be UTF-8.

1. A line longer than 16 MB is reported and skipped without being held in memory.
2. A byte order mark is dropped; UTF-16 is a UserError that names the command which converts it. Line ends may be LF or
   CRLF; both are taken off.
3. A line that is not UTF-8 is a Problem, never replaced characters, because the model would learn them.

Proved by tests/unit/data/test_read.py.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from ..core.errors import UserError
from .records import Problem, Where

LINE_BYTES = 16 * 2**20
_CHUNK = 2**20
_WIDE_MARKS = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}


@dataclass(frozen=True, slots=True)
class Row:
    """One row as it stands in the file."""

    where: Where
    value: dict[str, Any]


def opened(path: Path) -> BinaryIO:
    """The file's bytes, unpacked on the way when its name ends in .gz."""
    return gzip.open(path, "rb") if path.suffix.lower() == ".gz" else path.open("rb")


def lines(path: Path) -> Iterator[tuple[int, str | Problem]]:
    """Yield (line number, text without its line end) or (line number, Problem), holding one line at a time."""
    with opened(path) as file:
        number = 0
        while raw := file.readline(LINE_BYTES + 1):
            number += 1
            if number == 1:
                raw = without_mark(raw, path)
            where = Where(str(path), number)
            if len(raw) > LINE_BYTES and not raw.endswith(b"\n"):
                length = len(raw) + _skip_line(file)
                yield (
                    number,
                    Problem(where, f"the line is {length:,} bytes long, at most {LINE_BYTES:,} are read"),
                )
                continue
            try:
                text = raw.decode("utf-8")
            except UnicodeDecodeError as error:
                byte = f"0x{raw[error.start]:02x}"
                yield (
                    number,
                    Problem(where, f"not UTF-8: byte {byte} at position {error.start + 1} of the line"),
                )
                continue
            yield number, text.removesuffix("\n").removesuffix("\r")


def without_mark(raw: bytes, path: Path) -> bytes:
    """The first bytes of a file without the UTF-8 mark; UserError when the mark is that of UTF-16."""
    for mark, name in _WIDE_MARKS.items():
        if raw.startswith(mark):
            raise UserError(
                f"the file is {name}, only UTF-8 is read",
                where=str(path),
                fix=f"iconv -f {name} -t UTF-8 {path.name} > converted{path.suffix}",
            )
    return raw.removeprefix(b"\xef\xbb\xbf")


def _skip_line(file: BinaryIO) -> int:
    skipped = 0
    while chunk := file.readline(_CHUNK):
        skipped += len(chunk)
        if chunk.endswith(b"\n"):
            break
    return skipped
