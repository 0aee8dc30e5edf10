"""Reads and writes safetensors files piece by piece, so that a model's weights are in memory once.

    8 bytes: length n of the header, little-endian | n bytes: JSON, name → dtype, shape, offsets | the tensors, in a row

Format: https://github.com/huggingface/safetensors#format.

1. Reading goes through one buffer of `PIECE_BYTES` into memory that is there already, and converts on the way. (The
   library maps the file instead: then peak memory is that of the model and of the file.)
2. Writing asks for each tensor piece by piece. The file appears under its name when it is whole.

Proved by tests/unit/models/test_safetensors_file.py.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from ..core.disk import fsync, writing
from ..core.errors import UserError

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
NAMES = {dtype: name for name, dtype in DTYPES.items()}
PIECE_BYTES = 1 << 22
MAX_HEADER_BYTES = 4_000_000  # forty thousand tensors; parsing hostile JSON of this size takes a second
MAX_DIMENSIONS = 16


@dataclass(frozen=True)
class Stored:
    """One tensor in a file: its numbers begin at `offset`."""

    file: Path
    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    offset: int

    @property
    def bytes(self) -> int:
        """Size on disk."""
        return prod(self.shape) * self.dtype.itemsize


def read(file: Path) -> dict[str, Stored]:
    """The tensors of a file by name, in the order of the header; no number is read.

    Raises:
        UserError: not a safetensors file, or one that is damaged.
    """
    try:
        size = file.stat().st_size
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            if size < 8 or length > min(MAX_HEADER_BYTES, size - 8):
                raise _damaged(file, f"the header claims {length:,} bytes, the file has {size:,}")
            text = opened.read(length)
            if not text.startswith(b"{"):
                raise _damaged(file, "its header is no JSON object")
            header = json.loads(text, object_pairs_hook=_once)
    except OSError as error:
        raise UserError(f"the weights cannot be read: {error.strerror}", where=str(file)) from error
    except (ValueError, RecursionError) as error:
        raise _damaged(file, f"its header is no JSON: {error}") from error
    found = {
        name: _stored(file, name, entry, 8 + length)
        for name, entry in header.items()
        if name != "__metadata__"
    }
    end = 8 + length
    for tensor in sorted(found.values(), key=lambda tensor: (tensor.offset, tensor.bytes)):
        if tensor.offset != end:
            raise _damaged(file, f"{tensor.name!r} does not begin where the tensor before it ends")
        end += tensor.bytes
    if end != size:
        raise _damaged(file, f"it should have {end:,} bytes and has {size:,}")
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of the header; of a name that is there twice, one would hide the other."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name is there twice")
    return found


def _stored(file: Path, name: str, entry: Any, start: int) -> Stored:
    try:
        dtype, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
        numbers = [*shape, begin, end]
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(file, f"the entry of {name!r} lacks or garbles a part") from error
    whole = all(type(number) is int and 0 <= number < 1 << 63 for number in numbers)
    if not whole or not isinstance(shape, list) or len(shape) > MAX_DIMENSIONS:
        raise _damaged(file, f"the entry of {name!r} has sizes that are none")
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise UserError(
            f"the number format {dtype!r} of {name!r} is not read", where=str(file), why=f"read are {', '.join(DTYPES)}"
        )  # fmt: skip
    found = Stored(file, name, DTYPES[dtype], tuple(shape), start + begin)
    if found.bytes != end - begin:
        raise _damaged(file, f"{name!r} has {end - begin:,} bytes where its shape needs {found.bytes:,}")
    return found


def _damaged(file: Path, why: str) -> UserError:
    return UserError("the weights cannot be read", where=str(file), why=f"the file is damaged or cut off: {why}",
                     fix="fetch or copy it again")  # fmt: skip


def pieces(stored: Stored) -> Iterator[tuple[int, Tensor]]:
    """The tensor in pieces along its first dimension: where each begins, and its rows (valid until the next piece)."""
    rows = stored.shape[0] if stored.shape else 1
    row_shape = stored.shape[1:]
    row_bytes = prod(row_shape) * stored.dtype.itemsize
    if not rows or not row_bytes:
        return
    step = max(1, PIECE_BYTES // row_bytes)
    buffer = bytearray(min(step, rows) * row_bytes)
    with stored.file.open("rb", buffering=0) as opened:
        opened.seek(stored.offset)
        for start in range(0, rows, step):
            count = min(step, rows - start)
            _fill(opened, memoryview(buffer)[: count * row_bytes], stored.file)
            flat = torch.frombuffer(buffer, dtype=stored.dtype, count=count * prod(row_shape))
            yield start, flat.view(count, *row_shape)


def _fill(opened: Any, target: memoryview, file: Path) -> None:
    while target:
        got = opened.readinto(target)
        if not got:
            raise _damaged(file, "it ends too early")
        target = target[got:]


@dataclass(frozen=True)
class ToWrite:
    """A tensor to be written: `pieces` yields its numbers in order, in pieces of any shape."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    pieces: Callable[[], Iterator[Tensor]]

    @property
    def bytes(self) -> int:
        """Size on disk."""
        return prod(self.shape) * self.dtype.itemsize


def write(file: Path, tensors: list[ToWrite], metadata: Mapping[str, str]) -> None:
    """Writes a file; the old one stays until the new one is whole."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    end = 0
    for tensor in tensors:
        header[tensor.name] = {
            "dtype": NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [end, end + tensor.bytes],
        }
        end += tensor.bytes
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    temporary = file.with_name(f".{file.name}.tmp")
    with writing(file, 8 + len(text) + end):
        try:
            with temporary.open("wb") as opened:
                opened.write(len(text).to_bytes(8, "little") + text)
                for tensor in tensors:
                    _put(opened, tensor)
                opened.flush()
                os.fsync(opened.fileno())
            temporary.replace(file)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        fsync(file.parent)


def _put(opened: BinaryIO, tensor: ToWrite) -> None:
    before = opened.tell()
    for piece in tensor.pieces():
        assert piece.dtype == tensor.dtype, tensor.name
        opened.write(memoryview(piece.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy()))  # type: ignore[arg-type]
    assert opened.tell() - before == tensor.bytes, tensor.name
