"""Heat maps for a page: weights as small PNG images in `data:` addresses, and as SVG with tokens on both axes.

1. A pixel is a cell and its brightness the weight; a filter of the page turns it into colour, in light and dark. The
   page reads the numbers back from the same pixels: what is seen and what is told cannot differ.
2. Brightness is 255·√w, which shows small weights and is exact to 0.004 at least; or, as `linear`, 255·w, as in figure
   3 of Bahdanau et al. 2015.
3. Text of tokens is escaped; nothing in a picture refers to anything outside it.

Legend: T rows, M columns.
Proved by tests/unit/inspect/test_picture.py.
"""

from __future__ import annotations

import struct
import zlib
from base64 import b64encode
from collections.abc import Sequence
from unicodedata import east_asian_width

from markupsafe import Markup
from torch import Tensor

GREY = 0  # PNG's colour type: one byte a pixel
FONT = 12.5
LETTER = 0.6  # of the font size, about the width of a letter
LARGEST, SMALLEST, ACROSS = 30.0, 7.0, 620.0
READABLE = 18.0  # on a narrow screen cells shrink to this before the picture must be scrolled


def quantized(weights_TM: Tensor, linear: bool) -> Tensor:
    """The brightness of each cell, uint8."""
    scaled_TM = weights_TM.clamp(0, 1) if linear else weights_TM.clamp(0, 1).sqrt()
    return (scaled_TM * 255).round().byte()


def png(weights_TM: Tensor, linear: bool = False) -> bytes:
    """A PNG with one pixel for each weight in [0, 1]."""
    grey_TM = quantized(weights_TM, linear)
    rows, columns = grey_TM.shape
    lines = grey_TM.new_zeros(rows, 1 + columns)  # each line begins with 0: it stands for itself
    lines[:, 1:] = grey_TM
    header = struct.pack(">IIBBBBB", columns, rows, 8, GREY, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(lines.numpy().tobytes(), 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in chunks)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def address(data: bytes) -> str:
    """The PNG as a `data:` address."""
    return f"data:image/png;base64,{b64encode(data).decode()}"


def heat(
    image: str,
    rows: Sequence[str],
    columns: Sequence[str],
    alt: str,
    linear: bool = False,
    across: float = ACROSS,
) -> Markup:
    """A heat map with a label for each row at the left and for each column at the top.

    Args:
        image: the `data:` address of a PNG of len(rows) × len(columns) pixels.
        across: how wide or high the cells together should be, in CSS pixels.
    """
    cell = max(SMALLEST, min(LARGEST, across / max(len(rows), len(columns), 1)))
    font = min(FONT, max(7.0, 0.78 * cell))
    left = max(map(_width, rows)) * font + 10
    top = max(map(_width, columns)) * font + 10
    wide, high = cell * len(columns), cell * len(rows)
    labels = [
        Markup('<text x="{}" y="{}" text-anchor="end">{}</text>').format(
            f"{left - 6:.1f}", f"{top + cell * (place + 0.5) + 0.35 * font:.1f}", text
        )
        for place, text in enumerate(rows)
    ]
    heads = [
        Markup('<text transform="translate({} {}) rotate(-90)">{}</text>').format(
            f"{left + cell * (place + 0.5) + 0.35 * font:.1f}", f"{top - 6:.1f}", text
        )
        for place, text in enumerate(columns)
    ]
    box = Markup('x="{}" y="{}" width="{}" height="{}"').format(
        f"{left:.1f}", f"{top:.1f}", f"{wide:.1f}", f"{high:.1f}"
    )
    least = left + min(cell, READABLE) * len(columns)
    size = Markup('viewBox="0 0 {w} {h}" width="{w}" height="{h}" style="min-width: {least}px"').format(
        w=f"{left + wide + 2:.0f}", h=f"{top + high + 2:.0f}", least=f"{least:.0f}"
    )
    return Markup(
        '<svg class="heat{}" {} role="img" aria-label="{}" font-size="{}">'
        '<g class="rows">{}</g><g class="columns">{}</g><image {} preserveAspectRatio="none" href="{}"/>'
        '<rect class="frame" {}/><g class="aim"></g></svg>'
    ).format(
        " linear" if linear else "", size, alt, f"{font:.1f}", Markup("").join(labels), Markup("").join(heads),
        box, image, box,
    )  # fmt: skip


def _width(text: str) -> float:
    """About how wide a label is, in font sizes."""
    return sum(1.0 if east_asian_width(character) in "WF" else LETTER for character in text)
