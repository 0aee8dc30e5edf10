"""Read rows from txt, jsonl, json, csv, tsv and parquet files, plain or .gz, each row with its file and line.

1. A .txt file is ONE document, with two exceptions: a line `<|endoftext|>` ends a document, and a text that starts with
   a `<user>` or `<system>` line is a list of conversations, where a blank line directly before `<user>` or `<system>`
   also begins the next one.
2. A line that cannot be read ends a document, so that no false neighbours are learned; a conversation that holds one is
   left out whole.
3. CSV needs a header; a row may span lines and is named by its first. Parquet has no lines; its rows are counted.
4. A file that cannot be read at all (missing, a directory, unknown extension) is a UserError; a bad row is a Problem
   and reading goes on.

Proved by tests/unit/data/test_read.py.
"""

from __future__ import annotations

import csv
import gzip
import importlib
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from ..core.errors import UserError
from .jsonrows import checked, json_rows, jsonl_rows
from .lines import LINE_BYTES, Row, lines, opened
from .records import Problem, Where

DOCUMENT_CHARACTERS = 2**28
DOCUMENT_END = "<|endoftext|>"
OPENINGS = ("<user>", "<system>")
_CHUNK = 2**20


def rows(path: str | Path) -> Iterator[Row | Problem]:
    """Yield every row of a file, and a Problem in place of each row that cannot be read.

    Raises:
        UserError: the file is missing, a directory, not readable, or of an unknown kind.
    """
    path = Path(path)
    reader = _READERS[suffix(path)]
    _check(path)
    empty = True
    for row in _guarded(reader(path), path):
        empty = False
        yield row
    if empty:
        yield Problem(Where(str(path), 1), "the file is empty: it holds no rows")


def suffix(path: Path) -> str:
    """The extension that says how to read the file, without .gz; UserError when it is unknown."""
    ends = [end.lower() for end in path.suffixes]
    if ends and ends[-1] == ".gz":
        ends.pop()
    if ends and ends[-1] in _READERS:
        return ends[-1]
    known = ", ".join(sorted(_READERS))
    raise UserError(
        f"cannot tell the format of {path.name}",
        where=str(path),
        why=f"the extension is {path.suffix or 'missing'}; known are {known}, each also with .gz",
        fix="rename the file to the format that it has",
    )


def _check(path: Path) -> None:
    if path.is_dir():
        raise UserError(
            "expected a data file, found a directory", where=str(path), fix=f"name the files: {path}/*.jsonl"
        )
    if not path.exists():
        raise UserError("there is no such data file", where=str(path), fix="check the path")
    if not path.is_file():
        raise UserError("expected a data file, found something else", where=str(path))
    try:
        with path.open("rb"):
            pass
    except OSError as error:
        raise UserError("cannot open the data file", where=str(path), why=error.strerror) from error


def _guarded(found: Iterator[Row | Problem], path: Path) -> Iterator[Row | Problem]:
    """Turn a damaged archive or an unreadable disk into a problem after the last row that could be read."""
    line = 1
    try:
        for row in found:
            line = row.where.line
            yield row
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        yield Problem(Where(str(path), line), f"the gzip data is damaged after this line: {error}")
    except OSError as error:
        raise UserError("reading the file failed", where=f"{path}:{line}", why=str(error)) from error


def _text(path: Path) -> Iterator[Row | Problem]:
    document = _Document(path)
    for number, line in lines(path):
        if isinstance(line, Problem):
            yield line
            if document.is_chat:
                document.broken = True
                continue
            yield from document.end(number + 1)
            continue
        mark = line.strip()
        if mark == DOCUMENT_END:
            yield from document.end(number + 1)
            continue
        if document.is_chat and mark in OPENINGS and not document.lines[-1].strip():
            yield from document.end(number)
        document.add(line, number)
    yield from document.end(0)


class _Document:
    """The lines of one document of a .txt file while they are gathered."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines: list[str] = []
        self.start, self.size, self.broken = 1, 0, False

    @property
    def is_chat(self) -> bool:
        return bool(self.lines) and self.lines[0].strip() in OPENINGS

    def add(self, line: str, number: int) -> None:
        if not self.lines:
            if not line.strip():
                return
            self.start = number
        self.size += len(line) + 1
        if self.size <= DOCUMENT_CHARACTERS:
            self.lines.append(line)

    def end(self, start: int) -> Iterator[Row | Problem]:
        where = Where(str(self.path), self.start)
        if self.size > DOCUMENT_CHARACTERS:
            limit = f"{DOCUMENT_CHARACTERS:,} characters"
            yield Problem(where, f"the document is longer than {limit}: part it with {DOCUMENT_END} lines")
        elif self.lines and not self.broken:
            yield Row(where, {"text": "\n".join(self.lines)})
        self.lines, self.start, self.size, self.broken = [], start, 0, False


def _csv(path: Path) -> Iterator[Row | Problem]:
    problems: list[Problem] = []
    numbers: list[int] = []

    def texts() -> Iterator[str]:
        for number, line in lines(path):
            if isinstance(line, Problem):
                problems.append(line)
            else:
                numbers.append(number)
                yield line + "\n"

    csv.field_size_limit(LINE_BYTES)
    reader = csv.reader(texts(), strict=True, delimiter="\t" if suffix(path) == ".tsv" else ",")
    header: list[str] | None = None
    while True:
        numbers.clear()
        try:
            cells = next(reader, None)
        except csv.Error as error:
            cells, where = [], Where(str(path), numbers[0] if numbers else 1)
            problems.append(Problem(where, f"not CSV: {error}"))
        yield from problems
        problems.clear()
        if cells is None:
            return
        if not cells or not any(cells):
            continue
        where = Where(str(path), numbers[0])
        if header is None:
            header = _header(cells, where)
        elif len(cells) != len(header):
            yield Problem(where, f"{len(cells)} columns, the header has {len(header)}")
        else:
            yield Row(where, dict(zip(header, cells, strict=True)))


def _header(cells: list[str], where: Where) -> list[str]:
    names = [cell.strip() for cell in cells]
    if len(names) == 1 and (";" in names[0] or "\t" in names[0]):
        raise UserError(
            "the CSV columns are not parted by commas",
            where=str(where),
            why=f"the header reads {names[0]!r}",
            fix="save it with commas, or with tabs as .tsv",
        )
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"the CSV header names {twice!r} twice", where=str(where), fix="rename one column")
    return names


def _parquet(path: Path) -> Iterator[Row | Problem]:
    try:
        arrow = importlib.import_module("pyarrow")
        parquet = importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise UserError(
            "reading Parquet needs pyarrow, which is not installed",
            where=str(path),
            fix="pip install 'lmcraft[data]'",
        ) from error
    number = 0
    with opened(path) as file, tempfile.TemporaryFile() as plain:
        if path.suffix.lower() == ".gz":
            while chunk := file.read(_CHUNK):
                plain.write(chunk)
        try:
            table = parquet.ParquetFile(plain if path.suffix.lower() == ".gz" else file)
            for batch in table.iter_batches(batch_size=256):
                for value in batch.to_pylist():
                    number += 1
                    yield checked(value, Where(str(path), number))
        except (arrow.ArrowException, UnicodeDecodeError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            yield Problem(Where(str(path), number + 1), f"not a whole Parquet file: {reason}")


_READERS = {
    ".txt": _text,
    ".jsonl": jsonl_rows,
    ".json": json_rows,
    ".csv": _csv,
    ".tsv": _csv,
    ".parquet": _parquet,
}

SUFFIXES = tuple(_READERS)
