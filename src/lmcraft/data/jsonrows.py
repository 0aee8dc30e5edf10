"""Rows of JSON Lines and JSON files, parsed strictly, each with the line it starts on.

1. NaN and Infinity are not JSON (RFC 8259), and a key that comes twice in an object leaves open which value was meant;
   both are problems. So is half a surrogate pair (backslash-u escapes), which no UTF-8 text can hold.
2. A .json file has no line structure and is read whole (at most 1 GB). It is an array of rows, an object with the array
   under data, rows, examples or instances, an object of rows by id, or one row.
3. A .json file that is broken gives the rows up to the broken place and a Problem there.

Proved by tests/unit/data/test_read.py.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..core.errors import UserError
from .lines import Row, lines, opened, without_mark
from .records import Problem, Where

FILE_BYTES = 2**30
_ROW_LISTS = ("data", "rows", "examples", "instances")


def jsonl_rows(path: Path) -> Iterator[Row | Problem]:
    """One row a line; blank lines are passed over."""
    for number, line in lines(path):
        if isinstance(line, Problem):
            yield line
        elif line.strip():
            yield _row(line, Where(str(path), number))


def _row(line: str, where: Where) -> Row | Problem:
    try:
        value = _DECODER.decode(line)
    except json.JSONDecodeError as error:
        return Problem(where, f"not JSON: {error.msg} at column {error.colno}")
    except (ValueError, RecursionError) as error:
        return Problem(where, _reason(error))
    return _writable(value, where, line)


def checked(value: Any, where: Where) -> Row | Problem:
    """The value as a row, or a Problem when it is not an object."""
    if not isinstance(value, dict):
        return Problem(where, f'a row must be an object like {{"text": ...}}, found {named(value)}')
    return Row(where, value)


def _writable(value: Any, where: Where, source: str) -> Row | Problem:
    """Refuse strings that cannot be written as UTF-8; only an escape like \\ud800 can bring one in."""
    if "\\ud" in source or "\\uD" in source:
        try:
            json.dumps(value, ensure_ascii=False).encode("utf-8")
        except UnicodeEncodeError:
            return Problem(where, "half a surrogate pair: the text cannot be written as UTF-8")
    return checked(value, where)


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twice!r} comes twice")
    return value


def _constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _reason(error: Exception) -> str:
    return "nested too deeply" if isinstance(error, RecursionError) else str(error).partition("; use sys.")[0]


_DECODER = json.JSONDecoder(object_pairs_hook=_pairs, parse_constant=_constant)


_NAMES = {
    type(None): "null",
    bool: "true or false",
    int: "a number",
    float: "a number",
    str: "a string",
    list: "a list",
    dict: "an object",
}


def named(value: Any) -> str:
    """What JSON calls the value, for messages."""
    return _NAMES.get(type(value), type(value).__name__)


def json_rows(path: Path) -> Iterator[Row | Problem]:
    """Rows of a JSON file: an array, {"data": [...]}, an object of rows by id, or one row."""
    with opened(path) as file:
        raw = file.read(FILE_BYTES + 1)
    if len(raw) > FILE_BYTES:
        raise UserError(
            "the JSON file is too large to be read whole",
            where=str(path),
            why=f"more than {FILE_BYTES:,} bytes",
            fix=f"write one row a line: jq -c '.[]' {path.name} > rows.jsonl",
        )
    raw = without_mark(raw, path)
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        yield Problem(
            Where(str(path), line), f"not UTF-8: byte 0x{raw[error.start]:02x}; nothing of this file is used"
        )
        return
    if text.strip():
        yield from _Json(text, str(path)).rows()


class _Json:
    """Walks a JSON text value by value, so that each row knows its line."""

    def __init__(self, text: str, file: str) -> None:
        self.text, self.file = text, file
        self.position, self.counted, self.line = 0, 0, 1
        self.escapes = "\\ud" in text or "\\uD" in text

    def rows(self) -> Iterator[Row | Problem]:
        try:
            opening = self.peek()
            if opening == "[":
                yield from self.array()
            elif opening == "{":
                yield from self.object()
            else:
                raise ValueError('expected [ or {: a list of rows, {"data": [rows]}, or rows by id')
            if self.peek():
                raise ValueError(
                    "something follows the end of the JSON value; is this JSON Lines? then name it .jsonl"
                )
        except json.JSONDecodeError as error:
            self.position = max(error.pos, self.counted)
            yield Problem(
                self.where(), f"not JSON: {error.msg} at column {error.colno}; reading stopped here"
            )
        except (ValueError, RecursionError) as error:
            yield Problem(self.where(), f"{_reason(error)}; reading stopped here")

    def where(self) -> Where:
        self.line += self.text.count("\n", self.counted, self.position)
        self.counted = self.position
        return Where(self.file, self.line)

    def peek(self) -> str:
        while self.position < len(self.text) and self.text[self.position] in " \t\r\n":
            self.position += 1
        return self.text[self.position : self.position + 1]

    def take(self, character: str) -> None:
        if self.peek() != character:
            raise json.JSONDecodeError(f"expected {character!r}", self.text, self.position)
        self.position += 1

    def value(self) -> Any:
        self.peek()
        value, self.position = _DECODER.raw_decode(self.text, self.position)
        return value

    def members(self, closing: str) -> Iterator[None]:
        """Step from member to member of an array or object; the caller takes the member itself."""
        self.position += 1
        if self.peek() != closing:
            yield
            while self.peek() == ",":
                self.position += 1
                yield
        self.take(closing)

    def row(self, value: Any, where: Where) -> Row | Problem:
        return _writable(value, where, self.text) if self.escapes else checked(value, where)

    def array(self) -> Iterator[Row | Problem]:
        for _ in self.members("]"):
            self.peek()
            where = self.where()
            yield self.row(self.value(), where)

    def object(self) -> Iterator[Row | Problem]:
        where, found, listed = self.where(), [], False
        for _ in self.members("}"):
            self.peek()
            at, key = self.where(), self.value()
            if not isinstance(key, str):
                raise ValueError("a key must be a string")
            self.take(":")
            if key in _ROW_LISTS and self.peek() == "[" and not listed:
                listed = True
                yield from self.array()
            else:
                found.append((key, at, self.value()))
        if listed:
            return
        if found and all(isinstance(value, dict) for _, _, value in found):
            yield from (self.row(value, at) for _, at, value in found)
        elif found:
            yield self.row(_pairs([(key, value) for key, _, value in found]), where)
