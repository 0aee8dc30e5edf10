"""Headers of GGUF files, read with every count, length, type and offset checked before it is believed.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3, little-endian. The reader of the
`gguf` library trusts what a file says of itself (a length of 2^63 makes it loop or allocate); this one does not:

1. Nothing is allocated for more than the file holds, and at most 128 MB of header and 2 million strings are read, so a
   hostile file costs a second at worst. Reading is lazy: arrays stay bytes until they are asked for.
2. Tensors must lie one after the other, aligned and in the order of the list, and fill the rest of the file, as every
   writer lays them out. So a wrong size, offset or type cannot go unnoticed.
3. A fact is asked for by name *and* type; what is missing or of another type is a `UserError` that names it.

Proved by tests/gguf/test_header.py and tests/gguf/test_hostile_gguf.py.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import isfinite, prod
from pathlib import Path
from typing import Any, NoReturn

from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from .errors import UserError

MAGIC = b"GGUF"
# How pickles of protocols 2 to 5 begin, and the zip archive in which torch.save puts one.
PICKLED = (*(bytes([0x80, protocol]) for protocol in range(2, 6)), b"PK\x03\x04")
VERSIONS = (2, 3)
MAX_HEADER_BYTES = 128 << 20
MAX_STRINGS = 2 << 20
MAX_TEXT_BYTES = 1 << 20
MAX_NAME_BYTES = 256
MAX_ENTRIES = 1 << 16
MAX_DIMS = 4
MAX_ALIGNMENT = 1 << 20

_U32, _U64 = struct.Struct("<I"), struct.Struct("<Q")
_STRING, _ARRAY, _BOOL = 8, 9, 7
_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_LEAST_FACT = 8 + 1 + 4 + 1  # bytes: a length, a name of one letter, a type, a value
_LEAST_TENSOR = 8 + 1 + 4 + 8 + 4 + 8


@dataclass(frozen=True, slots=True)
class Array:
    """The bytes of an array of `count` values of one type."""

    kind: int
    count: int
    raw: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Stored:
    """Where a tensor lies in the file: rows first in `shape`, `offset` from the beginning of the file, in bytes."""

    name: str
    type: GGMLQuantizationType
    shape: tuple[int, ...]
    offset: int
    bytes: int


@dataclass(frozen=True)
class Header:
    """What a GGUF file says of itself."""

    path: Path
    version: int
    facts: dict[str, Any]
    tensors: dict[str, Stored]

    def number(self, key: str, default: float | None = None) -> float:
        """A finite number; `default` where there is none (None: it must be there)."""
        value = self.facts.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
            self._wrong(key, value, "a number")
        return value

    def integer(self, key: str, default: int | None = None) -> int:
        """A number from 0 to 2^31 - 1."""
        value = self.facts.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 31:
            self._wrong(key, value, "a count below 2^31")
        return value

    def flag(self, key: str, default: bool) -> bool:
        """True or false."""
        value = self.facts.get(key, default)
        if not isinstance(value, bool):
            self._wrong(key, value, "true or false")
        return value

    def text(self, key: str, default: str | None = None) -> str:
        """A text."""
        value = self.facts.get(key, default)
        if not isinstance(value, str):
            self._wrong(key, value, "a text")
        return value

    def strings(self, key: str) -> list[str]:
        """The texts of an array."""
        value = self.facts.get(key)
        if not isinstance(value, Array) or value.kind != _STRING:
            self._wrong(key, value, "a list of texts")
        try:
            return list(_strings(value))
        except UnicodeDecodeError as error:
            raise _damaged(self.path, f"{key} holds a text that is not UTF-8") from error

    def numbers(self, key: str) -> list[float]:
        """The numbers of an array."""
        value = self.facts.get(key)
        if not isinstance(value, Array) or value.kind not in _NUMBERS or value.kind == _BOOL:
            self._wrong(key, value, "a list of numbers")
        return list(struct.unpack(f"<{value.count}{_NUMBERS[value.kind]}", value.raw))

    def _wrong(self, key: str, value: Any, wanted: str) -> NoReturn:
        found = "it is missing" if value is None else f"it is {value!r:.80}"
        raise UserError(f"{key} is not {wanted}", where=str(self.path), why=found)


def is_gguf(path: Path) -> bool:
    """Whether a path is a file that calls itself GGUF, by its name or its first bytes."""
    if not path.is_file():
        return False
    if path.suffix == ".gguf":
        return True
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def is_pickled(path: Path) -> bool:
    """Whether a file begins like a pickle or a checkpoint of torch.save."""
    with path.open("rb") as file:
        return file.read(4).startswith(PICKLED)


def read(path: Path | str) -> Header:
    """The header of a GGUF file.

    Raises:
        UserError: not a GGUF file, of another version or byte order, or anything in it contradicts the file.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            if size < 2 * 4 + 2 * 8:
                raise _damaged(path, f"{size} bytes are too few for a header")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _Reader(path, data, size).header()
    except OSError as error:
        raise UserError(f"the file cannot be read: {error.strerror}", where=str(path)) from error


class _Reader:
    """Goes through a header once, from its beginning to its end."""

    def __init__(self, path: Path, data: mmap.mmap, size: int) -> None:
        self.path, self.data, self.size = path, data, size
        self.end = min(size, MAX_HEADER_BYTES)
        self.place = 0
        self.strings = 0

    def header(self) -> Header:
        magic = self._take(4, "the magic number")
        if magic != MAGIC:
            raise _no_gguf(self.path, magic)
        version = self._u32("the version")
        if version not in VERSIONS:
            if version << 16 & 0xFFFFFFFF == 0:
                raise UserError("the GGUF file is for big-endian machines", where=str(self.path),
                                fix="use the little-endian file of the same model")  # fmt: skip
            raise UserError(f"GGUF version {version} cannot be read", where=str(self.path),
                            why=f"known versions: {', '.join(map(str, VERSIONS))}")  # fmt: skip
        tensors = self._count(_LEAST_TENSOR, "tensors")
        facts = self._facts(self._count(_LEAST_FACT, "facts"))
        listed = [self._tensor() for _ in range(tensors)]
        return Header(self.path, version, facts, self._placed(listed, self._alignment(facts)))

    def _facts(self, count: int) -> dict[str, Any]:
        facts: dict[str, Any] = {}
        for _ in range(count):
            key = self._name("a key")
            if key in facts:
                raise _damaged(self.path, f"the key {key!r} is there twice")
            facts[key] = self._value(self._u32(f"the type of {key}"), key)
        return facts

    def _value(self, kind: int, key: str) -> Any:
        if kind == _STRING:
            return self._text(MAX_TEXT_BYTES, key)
        if kind == _ARRAY:
            return self._array(key)
        return struct.unpack("<" + self._letter(kind, key), self._take(self._width(kind, key), key))[0]

    def _array(self, key: str) -> Array:
        kind, count, begin = self._u32(f"the type of {key}"), self._u64(f"the length of {key}"), self.place
        if kind == _STRING:
            self._skip_strings(count, key)
        else:
            self._skip(self._width(kind, key) * count, key)
        return Array(kind, count, self.data[begin : self.place])

    def _skip_strings(self, count: int, key: str) -> None:
        self.strings += count
        if self.strings > MAX_STRINGS:
            raise _damaged(self.path, f"{key} claims {count:,} texts; at most {MAX_STRINGS:,} are read")
        data, place, last, length = self.data, self.place, self.end - 8, _U64.unpack_from
        for _ in range(count):
            if place > last:
                raise self._beyond(key)
            place += 8 + length(data, place)[0]
        if place > self.end:
            raise self._beyond(key)
        self.place = place

    def _tensor(self) -> tuple[str, GGMLQuantizationType, tuple[int, ...], int]:
        name = self._name("the name of a tensor")
        dims = self._u32(f"the dimensions of {name}")
        if not 1 <= dims <= MAX_DIMS:
            raise _damaged(self.path, f"{name} has {dims} dimensions; tensors have 1 to {MAX_DIMS}")
        shape = tuple(self._u64(f"the shape of {name}") for _ in range(dims))[::-1]
        if not all(0 < size < 1 << 63 for size in shape) or prod(shape) >= 1 << 63:
            raise _damaged(self.path, f"{name} has the shape {list(shape)}")
        number = self._u32(f"the type of {name}")
        try:
            kind = GGMLQuantizationType(number)
        except ValueError:
            raise _damaged(self.path, f"{name} is of type {number}, which is not known") from None
        block = GGML_QUANT_SIZES[kind][0]
        if shape[-1] % block:
            raise _damaged(self.path, f"{name} has rows of {shape[-1]}, {kind.name} has blocks of {block}")
        return name, kind, shape, self._u64(f"the offset of {name}")

    def _alignment(self, facts: dict[str, Any]) -> int:
        alignment = facts.get("general.alignment", 32)
        whole = isinstance(alignment, int) and not isinstance(alignment, bool)
        if not whole or not 0 < alignment <= MAX_ALIGNMENT or alignment & (alignment - 1):
            raise _damaged(self.path, f"the alignment is {alignment!r:.40}, not a power of two")
        return alignment

    def _placed(
        self, listed: list[tuple[str, Any, tuple[int, ...], int]], alignment: int
    ) -> dict[str, Stored]:
        """Tensors by name, each where the one before it ends."""
        found: dict[str, Stored] = {}
        begin = self.place + -self.place % alignment
        place = 0
        for name, kind, shape, offset in listed:
            if name in found:
                raise _damaged(self.path, f"the tensor {name} is there twice")
            if offset != place:
                raise _damaged(
                    self.path, f"{name} lies at {offset:,}, the tensor before it ends at {place:,}"
                )
            elements, bytes_each = GGML_QUANT_SIZES[kind]
            size = prod(shape) // elements * bytes_each
            if begin + offset + size > self.size:
                why = f"{name} ends at byte {begin + offset + size:,}, the file at {self.size:,}"
                raise _damaged(self.path, why)
            found[name] = Stored(name, kind, shape, begin + offset, size)
            place += size + -size % alignment
        if self.size - begin - place >= alignment:
            raise _damaged(
                self.path, f"{self.size - begin - place:,} bytes after the last tensor belong to nothing"
            )
        return found

    # -- pieces ------------------------------------------------------------------------------------------------------

    def _skip(self, count: int, what: str) -> None:
        if count > self.end - self.place:
            raise self._beyond(what)
        self.place += count

    def _take(self, count: int, what: str) -> bytes:
        begin = self.place
        self._skip(count, what)
        return self.data[begin : self.place]

    def _u32(self, what: str) -> int:
        return _U32.unpack(self._take(4, what))[0]

    def _u64(self, what: str) -> int:
        return _U64.unpack(self._take(8, what))[0]

    def _count(self, least: int, what: str) -> int:
        count = self._u64(f"the number of {what}")
        if count > MAX_ENTRIES or count * least > self.end - self.place:
            raise _damaged(self.path, f"it claims {count:,} {what}, for which it has no room")
        return count

    def _text(self, most: int, what: str) -> str:
        length = self._u64(f"the length of {what}")
        if length > most:
            raise _damaged(self.path, f"{what} claims {length:,} bytes; at most {most:,} are read")
        try:
            return self._take(length, what).decode("utf-8")
        except UnicodeDecodeError as error:
            raise _damaged(self.path, f"{what} is not UTF-8") from error

    def _name(self, what: str) -> str:
        name = self._text(MAX_NAME_BYTES, what)
        if not name or not name.isprintable():
            raise _damaged(self.path, f"{what} is {name!r:.40}")
        return name

    def _letter(self, kind: int, key: str) -> str:
        if kind not in _NUMBERS:
            raise _damaged(self.path, f"{key} is of type {kind}, which is not known here")
        return _NUMBERS[kind]

    def _width(self, kind: int, key: str) -> int:
        return struct.calcsize("<" + self._letter(kind, key))

    def _beyond(self, what: str) -> UserError:
        reason = (
            "the file ends" if self.end == self.size else f"more than {MAX_HEADER_BYTES >> 20} MB of header"
        )
        return _damaged(self.path, f"{reason} inside {what}")


def _strings(array: Array) -> Iterator[str]:
    place = 0
    for _ in range(array.count):
        begin = place + 8
        place = begin + _U64.unpack_from(array.raw, place)[0]
        yield array.raw[begin:place].decode("utf-8")


def _damaged(path: Path, why: str) -> UserError:
    return UserError(
        "the GGUF file is damaged", where=str(path), why=why, fix="fetch it again and compare its digest"
    )


def _no_gguf(path: Path, magic: bytes) -> UserError:
    return UserError(
        "this is not a GGUF file",
        where=str(path),
        why="it looks like a pickle, which could run code when it is read" if magic.startswith(PICKLED)
        else f"it begins with {magic!r}, not with {MAGIC!r}",
        fix="use the weights as .gguf or .safetensors",
    )  # fmt: skip
