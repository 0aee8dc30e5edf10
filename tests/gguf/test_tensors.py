"""Quantized tensors: every number format against the library and against plain arithmetic."""

from __future__ import annotations

import struct

import gguf
import numpy as np
import pytest

from lmcraft.core import gguf as headers
from lmcraft.core.errors import UserError
from lmcraft.models.gguf import tensors
from lmcraft.models.gguf.tensors import SUPPORTED

Kind = gguf.GGMLQuantizationType


def half(raw: bytes) -> float:
    return struct.unpack("<e", raw)[0]


def signed(byte: int) -> int:
    return byte - 256 if byte > 127 else byte


def five_bits(block: bytes, high: bytes, low: bytes) -> list[int]:
    bits = int.from_bytes(high, "little")
    return [
        (byte & 15 if i < 16 else byte >> 4) | (bits >> i & 1) << 4
        for i in range(32)
        for byte in [low[i % 16]]
    ]


def scale_and_minimum(packed: bytes, j: int) -> tuple[int, int]:
    """The 6-bit scale and minimum of group j out of the 12 bytes of Q4_K and Q5_K."""
    if j < 4:
        return packed[j] & 63, packed[j + 4] & 63
    return packed[j + 4] & 15 | packed[j - 4] >> 6 << 4, packed[j + 4] >> 4 | packed[j] >> 6 << 4


def plain(kind: Kind, block: bytes) -> list[float]:
    """The values of one block, one by one, as the format's description has them."""
    if kind == Kind.Q8_0:
        return [half(block[:2]) * signed(byte) for byte in block[2:]]
    if kind == Kind.Q4_0:
        return [
            half(block[:2]) * ((byte & 15 if i < 16 else byte >> 4) - 8)
            for i in range(32)
            for byte in [block[2 + i % 16]]
        ]
    if kind == Kind.Q4_1:
        d, m = half(block[:2]), half(block[2:4])
        return [
            d * (byte & 15 if i < 16 else byte >> 4) + m for i in range(32) for byte in [block[4 + i % 16]]
        ]
    if kind == Kind.Q5_0:
        return [half(block[:2]) * (q - 16) for q in five_bits(block, block[2:6], block[6:])]
    if kind == Kind.Q5_1:
        return [half(block[:2]) * q + half(block[2:4]) for q in five_bits(block, block[4:8], block[8:])]
    values = []
    if kind in (Kind.Q4_K, Kind.Q5_K):
        d, least, packed = half(block[:2]), half(block[2:4]), block[4:16]
        high, low = (block[16:48], block[48:]) if kind == Kind.Q5_K else (bytes(32), block[16:])
        for i in range(256):
            j, byte = i // 32, low[i // 64 * 32 + i % 32]
            q = (byte >> 4 if j % 2 else byte & 15) | (high[i % 32] >> j & 1) << 4
            scale, minimum = scale_and_minimum(packed, j)
            values.append(d * scale * q - least * minimum)
        return values
    low, high, scales, d = block[:128], block[128:192], block[192:208], half(block[208:])
    for i in range(256):
        part, place = i // 128, i % 128
        byte = low[part * 64 + place % 64]
        q = (byte >> 4 if place >= 64 else byte & 15) | (
            high[part * 32 + place % 32] >> place // 32 * 2 & 3
        ) << 4
        values.append(d * signed(scales[i // 16]) * (q - 32))
    return values


def blocks(kind: Kind, rows: int, width: int) -> np.ndarray:
    """Random blocks whose scales are ordinary numbers."""
    elements, size = gguf.GGML_QUANT_SIZES[kind]
    rng = np.random.default_rng(int(kind))
    made = rng.integers(0, 256, (rows * width // elements, size), dtype=np.uint8)
    scales = {Kind.Q6_K: (208,), Kind.Q4_1: (0, 2), Kind.Q5_1: (0, 2), Kind.Q4_K: (0, 2), Kind.Q5_K: (0, 2)}
    for place in scales.get(kind, (0,)):
        made[:, place : place + 2] = (
            rng.normal(0, 0.01, len(made)).astype(np.float16).view(np.uint8).reshape(-1, 2)
        )
    return made.reshape(rows, width // elements * size)


def stored(files, kind: Kind, raw: np.ndarray):
    """A file with one tensor, and its header."""
    file = files.write(files.folder / "x.gguf", {"general.architecture": "llama"}, {"x": raw}, kind)
    return file, headers.read(file).tensors["x"]


@pytest.mark.parametrize("kind", [kind for kind in SUPPORTED if gguf.GGML_QUANT_SIZES[kind][0] > 1])
def test_blocks_are_what_their_description_says(files, kind):
    """A failure would mean that the weights of a quantized model are other numbers."""
    raw = blocks(kind, 3, 512)
    file, one = stored(files, kind, raw)
    out = np.empty((3, 512), np.float32)
    tensors.fill(file, one, out)
    assert np.array_equal(out, gguf.quants.dequantize(raw, kind))
    size = gguf.GGML_QUANT_SIZES[kind][1]
    flat = raw.tobytes()
    expected = [
        value for place in range(0, len(flat), size) for value in plain(kind, flat[place : place + size])
    ]
    np.testing.assert_allclose(out.ravel(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", [Kind.F32, Kind.F16, Kind.BF16])
def test_plain_numbers(files, kind):
    """A failure would mean that unquantized files are read wrongly."""
    values = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32)
    file, one = stored(files, kind, gguf.quants.quantize(values, kind) if kind != Kind.F32 else values)
    out = np.empty((5, 7), np.float32)
    tensors.fill(file, one, out)
    bits = {Kind.F32: 0, Kind.F16: 2**-11, Kind.BF16: 2**-8}[kind]
    np.testing.assert_allclose(out, values, rtol=bits)


def test_pieces_make_the_whole(files, monkeypatch):
    """A failure would mean that large tensors lose or repeat rows where they are cut."""
    raw = blocks(Kind.Q8_0, 11, 64)
    file, one = stored(files, Kind.Q8_0, raw)
    monkeypatch.setattr(tensors, "PIECE", 64 * 4)
    out = np.empty((11, 64), np.float32)
    tensors.fill(file, one, out)
    assert np.array_equal(out, gguf.quants.dequantize(raw, Kind.Q8_0))


def test_other_formats_are_refused_by_name(files):
    """A failure would mean a traceback, or random weights, for a file with 2-bit numbers."""
    raw = np.zeros((1, gguf.GGML_QUANT_SIZES[Kind.Q2_K][1]), np.uint8)
    file, one = stored(files, Kind.Q2_K, raw)
    with pytest.raises(UserError, match="stored as Q2_K"):
        tensors.fill(file, one, np.empty((1, 256), np.float32))


def test_a_file_that_shrinks_is_told(files):
    """A failure would mean that zeros are read where the file has ended."""
    file, one = stored(files, Kind.Q8_0, blocks(Kind.Q8_0, 4, 64))
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(UserError, match="shorter"):
        tensors.fill(file, one, np.empty((4, 64), np.float32))
