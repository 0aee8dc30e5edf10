"""The picture of an inspection as PNG, for everywhere that shows no page: the alignment, or losses and every head.

1. On white, in the colours of the page's light style. Where a font lacks a character, a box stands for it.

Legend: H heads, T positions, S source positions.
Proved by tests/unit/inspect/test_overview.py.
"""

from __future__ import annotations

import math
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.disk import write_bytes
from ..report.figures import SETTINGS
from ..report.panels import palette
from ..text.tokenizer import Tokenizer
from .align import Alignment
from .look import Inspection, rows_of
from .page import alignments
from .record import CROSS, ENCODER, SELF
from .sections import about

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = palette()
DPI = 130
LABELLED = 64  # tokens: with more, names on an axis would overlap
HEADS = 512  # in the picture; the page has all
SIDES = {ENCODER: "encoder", SELF: "self-attention", CROSS: "cross-attention"}


def write(file: Path, name: str, seen: Inspection, tokenizer: Tokenizer, by_words: bool = False) -> Path:
    """Writes the picture."""
    return write_bytes(file, draw(name, seen, tokenizer, by_words))


def draw(name: str, seen: Inspection, tokenizer: Tokenizer, by_words: bool = False) -> bytes:
    """The picture as PNG bytes."""
    import warnings

    from matplotlib import style
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    aligned = alignments(seen, tokenizer, by_words)
    fonts = ["DejaVu Sans", "Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans"]
    own = {
        "figure.facecolor": "white",
        "axes.facecolor": "white",
        "axes.grid": False,
        "text.parse_math": False,
    }
    colours = dict.fromkeys(
        ("axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), COLOURS["muted"]
    )
    with style.context(
        [
            "default",
            SETTINGS | own | colours | {"text.color": COLOURS["ink"], "font.family": _installed(fonts)},
        ]
    ):
        canvas = Figure(dpi=DPI, layout="constrained")
        FigureCanvasAgg(canvas)
        if aligned:
            _alignment(canvas, name, aligned[0][1], seen)
        else:
            _losses_and_heads(canvas, name, seen)
        file = BytesIO()
        with warnings.catch_warnings():
            # a character that no font has is drawn as a box, which says enough
            warnings.filterwarnings("ignore", message=r"Glyph .* missing from")
            canvas.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()


def _installed(wanted: list[str]) -> list[str]:
    """Those of the fonts that this machine has; matplotlib brings the first itself."""
    from matplotlib import font_manager

    known = set(font_manager.get_font_names())
    return [font for font in wanted if font in known]


def _alignment(canvas: Figure, name: str, found: Alignment, seen: Inspection) -> None:
    rows, columns = len(found.rows), len(found.columns)
    cell = max(0.09, min(0.34, 8 / max(rows, columns)))
    left = 0.09 * max(map(len, found.rows)) + 0.4
    top = 0.09 * max(map(len, found.columns)) + 0.8
    canvas.set_size_inches(max(4.0, cell * columns + left), max(3.0, cell * rows + top))
    axes = canvas.subplots()
    axes.imshow(found.choices[0].weights_TS.numpy(), cmap="gray", vmin=0, vmax=1, aspect="equal")
    _token_axis(axes.xaxis, found.columns, rotation=90)
    _token_axis(axes.yaxis, found.rows, rotation=0)
    axes.xaxis.tick_top()
    axes.set_xlabel(f"{name}: {found.choices[0].name}", fontsize=9)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.tick_params(length=0, labelcolor=COLOURS["ink"])


def _token_axis(axis: Any, labels: list[str], rotation: int) -> None:
    every = math.ceil(len(labels) / 90)
    axis.set_ticks(
        range(0, len(labels), every),
        labels[::every],
        rotation=rotation,
        fontsize=9 if len(labels) < 45 else 6,
    )


def _losses_and_heads(canvas: Figure, name: str, seen: Inspection) -> None:
    sides = [side for side in (ENCODER, SELF) if rows_of(seen.maps, side)]
    listed = [about(seen, place) for place in range(len(seen.target))]
    bits = [0.0 if one is None or one.bits is None else one.bits for one in listed]
    heights = [2.4] + [_grid_height(seen, side) for side in sides]
    if not any(bits):
        heights = heights[1:] or [1.0]
    wide = max(6.0, min(14.0, 0.26 * len(seen.target) + 1.2))
    canvas.set_size_inches(wide, sum(heights) + 0.6)
    axes = list(canvas.subplots(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0])
    canvas.suptitle(name, fontsize=11, x=0.01, ha="left")
    if any(bits):
        _losses(axes.pop(0), seen, bits)
    for panel, side in zip(axes, sides, strict=False):
        _heads(panel, seen, side)


def _losses(axes: Axes, seen: Inspection, bits: list[float]) -> None:
    axes.bar(range(len(bits)), bits, color=COLOURS["second"], width=0.8)
    axes.set_ylabel("bits")
    axes.set_xlim(-0.6, len(bits) - 0.4)
    _token_axis(axes.xaxis, [piece.label for piece in seen.target], rotation=90)
    mean = seen.total.mean
    if mean is not None:
        axes.axhline(mean / math.log(2), color=COLOURS["first"], linewidth=1, linestyle="--")
        axes.set_title(
            f"loss of each token; mean {mean / math.log(2):.2f} bits (dashed)", loc="left", fontsize=10
        )


def _grid_height(seen: Inspection, side: str) -> float:
    maps = rows_of(seen.maps, side)
    heads = max(len(one.weights_HTM) for one in maps)
    return max(1.8, min(16.0, 10.0 * len(maps) / max(heads, 5)))


def _heads(axes: Axes, seen: Inspection, side: str) -> None:
    """All heads of one side in one image, a layer a row, with white between them."""
    import numpy as np

    maps = rows_of(seen.maps, side)
    heads = max(len(one.weights_HTM) for one in maps)
    maps = maps[: max(1, HEADS // heads)]
    rows, columns = maps[0].weights_HTM.shape[1:]
    gap_rows, gap_columns = max(1, rows // 14), max(1, columns // 14)
    sheet = np.full((len(maps) * (rows + gap_rows), heads * (columns + gap_columns)), np.nan)
    for layer, one in enumerate(maps):
        for head, weights_TM in enumerate(one.weights_HTM):
            y, x = layer * (rows + gap_rows), head * (columns + gap_columns)
            sheet[y : y + rows, x : x + columns] = weights_TM.sqrt().numpy()
    axes.imshow(sheet, cmap="Blues", vmin=0, vmax=1, interpolation="nearest", aspect="auto")
    axes.set_xticks(
        [head * (columns + gap_columns) + columns / 2 for head in range(heads)], range(1, heads + 1)
    )
    axes.set_yticks(
        [layer * (rows + gap_rows) + rows / 2 for layer in range(len(maps))], range(1, len(maps) + 1)
    )
    axes.tick_params(length=0, labelsize=8)
    what = (
        "influence of each token (gradients)"
        if seen.gradient
        else f"{SIDES[side]}, a layer a row, a head a column"
    )
    axes.set_title(f"{what}; colour is √weight", loc="left", fontsize=10)
    for spine in axes.spines.values():
        spine.set_visible(False)
