"""Tensors of a GGUF file as float32, a few rows at a time, through the dequantizers of the `gguf` library.

1. A tensor is read in pieces of at most 4 million values into memory that the model already has, so the peak is the
   model's own size and not a second copy of its largest matrix.
2. Values that are not finite are refused: no trained model has them, and a flipped bit in the scale of a block does.

Proved by tests/gguf/test_tensors.py.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from gguf.constants import GGMLQuantizationType as Kind
from gguf.quants import dequantize

from ...core.errors import UserError
from ...core.gguf import Stored

SUPPORTED = (
    Kind.F32, Kind.F16, Kind.BF16, Kind.Q8_0, Kind.Q4_0, Kind.Q4_1, Kind.Q5_0, Kind.Q5_1,
    Kind.Q4_K, Kind.Q5_K, Kind.Q6_K,
)  # fmt: skip
PIECE = 4 << 20


def fill(path: Path, stored: Stored, out: np.ndarray) -> None:
    """Writes the values of a stored tensor into `out`, a float32 array of its shape.

    Raises:
        UserError: a number format that is not supported, or values that are not finite.
    """
    assert out.shape == stored.shape and out.dtype == np.float32
    if stored.type not in SUPPORTED:
        raise UserError(
            f"{stored.name} is stored as {stored.type.name}, which cannot be read",
            where=str(path),
            why=f"supported: {', '.join(kind.name for kind in SUPPORTED)}",
            fix="use another quantization of the same model, such as Q8_0 or Q4_K_M",
        )
    rows = out.reshape(-1, stored.shape[-1])
    with np.errstate(all="ignore"):  # a damaged scale overflows; it is told below
        for start, raw in _pieces(path, stored, len(rows)):
            values = dequantize(raw, stored.type)
            if not np.isfinite(values).all():
                raise UserError(
                    f"{stored.name} holds values that are no finite numbers", where=str(path),
                    why="the file is damaged", fix="fetch it again and compare its digest",
                )  # fmt: skip
            rows[start : start + len(values)] = values


def _pieces(path: Path, stored: Stored, rows: int) -> Iterator[tuple[int, np.ndarray]]:
    """The first row of each piece, and its bytes as [rows, bytes of a row]."""
    width = stored.bytes // rows
    at_once = max(1, PIECE // stored.shape[-1])
    with path.open("rb", buffering=0) as file:
        for start in range(0, rows, at_once):
            count = min(at_once, rows - start)
            raw = np.empty((count, width), np.uint8)
            if os.preadv(file.fileno(), [raw], stored.offset + start * width) != raw.nbytes:
                raise UserError("the file has become shorter while it was read", where=str(path))
            yield start, raw
