"""Draws the panels of a study: as SVG for the page, in its colours and fonts, and as PNG for everywhere else.

1. One function draws both; only colours, fonts and the place of the legend differ.
2. Curves differ in colour, marker and dash, so that a figure can be read without colours. The colours are those of the
   page's style sheet: blue, orange, green, purple and grey, which people with colour blindness tell apart.
3. A wide figure is its panels side by side; on the page each panel stands alone and the browser arranges them.

Proved by tests/unit/report/test_study_page.py.
"""

from __future__ import annotations

import re
from io import BytesIO
from math import log10
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from . import grids, words
from .figures import COLOURS, MUTED, SETTINGS, draw
from .finding import Figure, Grid, Line, Panel

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TONES = ("first", "second", "third", "fourth", "fifth")
MARKERS = "os^Dv"
MANY_POINTS = 24
SIZE = (400, 300)
WIDE_SIZE = (700, 330)
PNG_SIZE, PNG_DPI = (4.9, 3.9), 110
STYLE = Path(__file__).parent / "templates" / "style.jinja"


def tone(line: Line, place: int) -> str:
    """The name of a line's colour in the style sheet."""
    return TONES[(place if line.tone is None else line.tone) % len(TONES)]


def svg(panel: Panel | Grid, name: str, wide: bool = False) -> Markup:
    """An SVG element of one panel without its title and legend, which the page writes."""
    stand_ins = {variable: stand_in for stand_in, variable in COLOURS.items()}
    if isinstance(panel, Grid):
        pixels, (left, bottom) = grids.size(panel)
        alt = f"{panel.title}: {panel.label}; {panel.y} against {panel.x}"
        return draw(
            name, pixels, lambda axes: grids.plot(axes, panel, stand_ins), alt, right=0.1, top=0.1,
            left=left / 72, bottom=bottom / 72,
        )  # fmt: skip
    alt = f"{panel.title}: {', '.join(line.label for line in panel.lines)}; {panel.y} against {panel.x}"
    return draw(
        name, WIDE_SIZE if wide else SIZE, lambda axes: plot(axes, panel, stand_ins), alt, right=0.25, top=0.2
    )


def legend(panel: Panel | Grid) -> list[tuple[str, bool, str]]:
    """The colour of each line by its name, whether it is dashed, and its label."""
    if isinstance(panel, Grid):
        return [("first", False, panel.label), *([("second", False, panel.mark)] if panel.marked else [])]
    return [(tone(line, place), line.kind == "dashed", line.label) for place, line in enumerate(panel.lines)]


def png(figure: Figure) -> bytes:
    """The whole figure as a PNG on white, with titles and legends."""
    from matplotlib import style
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    colours = palette()
    settings = {
        name: colours[COLOURS[value]] if value in COLOURS else value for name, value in SETTINGS.items()
    }
    settings |= {"figure.facecolor": "white", "axes.facecolor": "white", "font.family": "DejaVu Sans"}
    with style.context(["default", settings]):
        sizes = [_inches(panel) for panel in figure.panels]
        widths = [width for width, _ in sizes]
        canvas = Canvas(
            figsize=(sum(widths), max(height for _, height in sizes)), dpi=PNG_DPI, layout="constrained"
        )
        FigureCanvasAgg(canvas)
        row = canvas.subplots(1, len(sizes), squeeze=False, gridspec_kw={"width_ratios": widths})[0]
        rows = max(_legend_rows(panel) for panel in figure.panels)
        for axes, panel in zip(row, figure.panels, strict=True):
            _whole(axes, panel, colours, rows)
        file = BytesIO()
        canvas.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()


def _inches(panel: Panel | Grid) -> tuple[float, float]:
    if isinstance(panel, Panel):
        return PNG_SIZE
    (width, height), _ = grids.size(panel)
    return max(PNG_SIZE[0], width / 72), height / 72 + 0.6


def _whole(axes: Axes, panel: Panel | Grid, colours: dict[str, str], rows: int) -> None:
    """A panel with its title and legend above; all titles of a figure stand above as many rows of legend."""
    if isinstance(panel, Grid):
        grids.plot(axes, panel, colours)
        axes.set_title(panel.title, loc="left", fontsize=12)
        return
    plot(axes, panel, colours)
    axes.set_title(panel.title, loc="left", fontsize=12, pad=8 + 17 * rows)
    if len(panel.lines) > 1:
        axes.legend(
            loc="lower left", bbox_to_anchor=(0, 1.0), ncols=_legend_columns(panel), frameon=False,
            fontsize=10, borderaxespad=0.3, handlelength=1.9, columnspacing=1.4,
        )  # fmt: skip


def palette() -> dict[str, str]:
    """The colours of the light page by name, read from its style sheet."""
    light = STYLE.read_text(encoding="utf-8").partition("}")[0]
    return dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{3,6})", light))


def _legend_columns(panel: Panel) -> int:
    """As many labels side by side as fit above the axes."""
    longest = max(len(line.label) for line in panel.lines)
    return max(1, min(len(panel.lines), 52 // (longest + 5)))


def _legend_rows(panel: Panel | Grid) -> int:
    if isinstance(panel, Grid) or len(panel.lines) < 2:
        return 0
    return -(-len(panel.lines) // _legend_columns(panel))


def plot(axes: Axes, panel: Panel, colours: dict[str, str]) -> None:
    """Everything inside the axes, and their labels."""
    axes.set_xlabel(panel.x)
    axes.set_ylabel(panel.y)
    bars = [line for line in panel.lines if line.kind == "bars"]
    for place, line in enumerate(panel.lines):
        colour = colours[tone(line, place)]
        if line.kind == "bars":
            _bars(axes, line, bars.index(line), len(bars), colour)
        else:
            _curve(axes, line, place, colour)
    _scales(axes, panel, words_on_x=bool(bars))
    for label, value in panel.levels.items():
        axes.axhline(value, color=colours["muted"], linestyle=":", linewidth=1.2, zorder=1)
        low, high = axes.get_ylim()
        below = panel.y_scale == "linear" and value - low > 0.1 * (high - low)
        axes.annotate(
            label, (1, value), xycoords=("axes fraction", "data"), xytext=(0, -3 if below else 3),
            textcoords="offset points", ha="right", va="top" if below else "bottom", color=colours["muted"],
            fontsize=9.5,
        )  # fmt: skip


def _curve(axes: Axes, line: Line, place: int, colour: str) -> None:
    many = len(line.x) > MANY_POINTS
    shape = MARKERS[
        (place + place // len(TONES)) % len(MARKERS)
    ]  # the sixth has the first's colour, not its shape
    marker = None if (many or not line.marked) and line.kind != "points" else shape
    dash = {"line": "-", "dashed": (0, (4, 2)), "points": "none"}[line.kind]
    heights = [float("nan") if value is None else value for value in line.y]
    axes.plot(
        line.x, heights, color=colour, linestyle=dash, marker=marker, markersize=5, label=line.label, zorder=3
    )
    if line.low is not None and line.high is not None:
        if line.kind == "points":
            axes.vlines(line.x, line.low, line.high, color=colour, zorder=2)
        else:
            axes.fill_between(line.x, line.low, line.high, color=colour, alpha=0.18, linewidth=0, zorder=2)


def _bars(axes: Axes, line: Line, number: int, groups: int, colour: str) -> None:
    """Bars of one group, beside those of the others."""
    width = 0.8 / groups
    places = [place + (number - (groups - 1) / 2) * width for place in range(len(line.x))]
    heights = [value or 0.0 for value in line.y]
    axes.bar(places, heights, width * 0.92, color=colour, label=line.label, zorder=3)
    if line.low is not None and line.high is not None:
        for place, low, high in zip(places, line.low, line.high, strict=True):
            axes.plot([place, place], [low, high], color=MUTED if colour in COLOURS else "#333333", zorder=4)
    axes.set_xticks(range(len(line.x)), [str(word) for word in line.x])


def _scales(axes: Axes, panel: Panel, words_on_x: bool) -> None:
    from matplotlib.ticker import (
        AutoLocator,
        FixedLocator,
        LogLocator,
        MaxNLocator,
        NullLocator,
        PercentFormatter,
    )

    xs: Any = sorted({x for line in panel.lines for x in line.x})
    if not words_on_x:
        axes.xaxis.set_major_locator(AutoLocator())
        if panel.x_scale != "linear":
            axes.set_xscale("log", base=2 if panel.x_scale == "log2" else 10)
            axes.xaxis.set_minor_locator(NullLocator())
            if panel.x_scale == "log2" and len(xs) <= 12:
                axes.xaxis.set_major_locator(FixedLocator(xs))
            exact = panel.x_scale == "log2"  # 1,024 is known by its digits
            axes.xaxis.set_major_formatter(
                lambda value, _: f"{value:,g}" if exact else words.axis(round(value, 6))
            )
    if panel.y_scale == "log":
        axes.set_yscale("log")
        axes.yaxis.set_minor_locator(NullLocator())
        low, high = panel.y_range or axes.get_ylim()
        if high / low > 1e3:
            axes.yaxis.set_major_locator(LogLocator(numticks=7))
            axes.yaxis.set_major_formatter(_power)
        else:
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter(lambda value, _: words.axis(round(value, 6)))
    elif panel.percent:
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))
    if panel.y_range is not None:
        axes.set_ylim(*panel.y_range)
    axes.margins(x=0.03)


def _power(value: float, _: Any) -> str:
    """10⁻⁶, without the markup that would need a font of its own."""
    return f"10{words.raised(round(log10(value)))}"
