"""An alignment is drawn as squares in the colours of the page, on the page and as a picture."""

from __future__ import annotations

import re

import pytest
from pydantic import ValidationError

from lmcraft.report import grids, panels
from lmcraft.report.finding import Figure, Grid

MADE = {
    "title": "Reversal", "x": "source", "y": "target", "columns": ["twenty", "-one"], "rows": ["ein", "und", "zwanzig"],
    "values": [[0.1, 0.9], [0.005, 0.995], [1.0, 0.0]], "label": "attention", "marked": [(0, 1), (2, 0)],
    "mark": "truth",
}  # fmt: skip


def test_squares_and_frames_stand_where_they_belong() -> None:
    """If this failed, the figure would show another alignment than the one that was measured."""
    from matplotlib.figure import Figure as Canvas

    axes = Canvas().subplots()
    colours = {"first": "#0000ff", "second": "#ff0000", "ink": "#000000"}
    grids.plot(axes, Grid(**MADE), colours)
    drawn = {(p.get_y() + 0.5, p.get_x() + 0.5, p.get_alpha()) for p in axes.patches if p.get_fill()}
    assert {(row, column) for row, column, _ in drawn} == {(0, 0), (0, 1), (1, 1), (2, 0)}
    assert {alpha for row, column, alpha in drawn if (row, column) == (0, 1)} == {0.9}
    assert [(round(p.get_y()), round(p.get_x())) for p in axes.patches if not p.get_fill()] == [
        (0, 1),
        (2, 0),
    ]
    assert axes.yaxis_inverted() and [t.get_text() for t in axes.get_yticklabels()] == MADE["rows"]


def test_the_page_and_the_picture_have_it() -> None:
    """If this failed, a study with an alignment would end in a traceback after minutes of training."""
    grid = Grid(**MADE)
    svg = panels.svg(grid, "a")
    assert "var(--first)" in svg and "var(--second)" in svg and "zwanzig" in svg
    assert set(re.findall(r"#[0-9a-f]{6}", svg)) <= {"#ffffff"}
    assert panels.legend(grid) == [("first", False, "attention"), ("second", False, "truth")]
    assert panels.png(Figure(name="a", caption="", panels=[grid, grid])).startswith(b"\x89PNG")


def test_a_grid_with_missing_values_is_refused() -> None:
    """If this failed, words would stand beside the wrong squares."""
    with pytest.raises(ValidationError, match="a value for each row and column"):
        Grid(**{**MADE, "values": [[0.1, 0.9]]})
