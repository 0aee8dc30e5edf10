"""Draws a grid of shares, such as an alignment: the stronger the square, the larger the share.

The colour of the page is laid on with the share as opacity, so one drawing serves light and dark.

Proved by tests/unit/report/test_grids.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .finding import Grid

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SQUARE, LETTER, LABEL = 22, 6.6, 46  # pixels of a square, of a letter beside it, of the name of an axis
FAINTEST = 0.01


def size(grid: Grid) -> tuple[tuple[int, int], tuple[float, float]]:
    """Width and height in pixels, and how much of them is left of the squares and below them."""
    left = LETTER * max(map(len, grid.rows)) + LABEL
    below = LETTER * max(map(len, grid.columns)) + LABEL
    squares = (SQUARE * len(grid.columns), SQUARE * len(grid.rows))
    return (round(left + squares[0] + 12), round(below + squares[1] + 12)), (left, below)


def plot(axes: Axes, grid: Grid, colours: dict[str, str]) -> None:
    """Squares, frames and the words beside them; the first row is at the top."""
    from matplotlib.patches import Rectangle
    from matplotlib.ticker import FixedFormatter, FixedLocator

    axes.grid(False)
    for row, shares in enumerate(grid.values):
        for column, share in enumerate(shares):
            if share >= FAINTEST:
                corner, strength = (column - 0.5, row - 0.5), min(1.0, share)
                axes.add_patch(Rectangle(corner, 1, 1, color=colours["first"], alpha=strength, linewidth=0))
    for row, column in grid.marked:
        axes.add_patch(
            Rectangle(
                (column - 0.44, row - 0.44),
                0.88,
                0.88,
                fill=False,
                edgecolor=colours["second"],
                linewidth=1.4,
            )
        )
    axes.set_xlim(-0.5, len(grid.columns) - 0.5)
    axes.set_ylim(len(grid.rows) - 0.5, -0.5)
    axes.set_aspect("equal")
    axes.xaxis.set_major_locator(FixedLocator(range(len(grid.columns))))
    axes.xaxis.set_major_formatter(FixedFormatter(grid.columns))
    axes.yaxis.set_major_locator(FixedLocator(range(len(grid.rows))))
    axes.yaxis.set_major_formatter(FixedFormatter(grid.rows))
    axes.tick_params(axis="x", rotation=90, length=0, colors=colours["ink"])
    axes.tick_params(axis="y", length=0, colors=colours["ink"])
    axes.set_xlabel(grid.x)
    axes.set_ylabel(grid.y)
