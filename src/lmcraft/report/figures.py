"""Curves of a run as inline SVG: drawn by matplotlib, coloured by the page's style sheet, the same bytes every time.

1. Text stays text and takes the font of the page; colours are stand-ins that become CSS variables, so one drawing
   serves light, dark and print. The user's own matplotlib settings have no effect.
2. The thick line is the mean of a window around each step (stated beside the figure, shorter at the ends); the faint
   line is every step. Of long logs it keeps the lowest and highest value of each stretch, so no spike is lost.
3. No text of a run is drawn: every word in a figure is ours.

Proved by tests/unit/report/test_figures.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from . import words
from .facts import Facts

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy import ndarray

# In CSS pixels, about the sizes at which they are shown, so that text keeps its size on every screen.
WIDE, NARROW, SMALL = (760, 330), (380, 300), (280, 190)
POINTS = 600
COLOURS = {
    "#010a01": "ink", "#020a02": "muted", "#030a03": "rule", "#040a04": "first", "#050a05": "second",
    "#060a06": "third", "#070a07": "fourth", "#080a08": "fifth",
}  # fmt: skip
INK, MUTED, RULE, FIRST, SECOND, *_ = COLOURS
SETTINGS = {
    "svg.fonttype": "none", "svg.hashsalt": "lmcraft", "text.parse_math": False, "axes.unicode_minus": True,
    "font.size": 11, "axes.edgecolor": RULE, "axes.labelcolor": MUTED, "xtick.color": MUTED, "ytick.color": MUTED,
    "text.color": INK, "axes.spines.top": False, "axes.spines.right": False, "axes.spines.left": False,
    "axes.grid": True, "axes.grid.axis": "y", "grid.color": RULE, "grid.linewidth": 0.8,
    "xtick.major.size": 4, "ytick.major.size": 0, "lines.linewidth": 1.8, "lines.solid_joinstyle": "round",
    "figure.facecolor": "none", "axes.facecolor": "none", "axes.axisbelow": True, "path.simplify": True,
}  # fmt: skip


@dataclass(frozen=True)
class Figure:
    """One figure of the page; `narrow` is drawn for small screens when `wide` would be unreadable there."""

    title: str
    caption: str
    legend: list[tuple[str, str]]
    wide: Markup
    narrow: Markup | None = None


@dataclass(frozen=True)
class Series:
    """Finite values of one column and their steps; `missing` rows had none."""

    steps: ndarray
    values: ndarray
    missing: int

    def __bool__(self) -> bool:
        return len(self.steps) > 0


def series(facts: Facts, name: str) -> Series:
    """One column of metrics.jsonl."""
    import numpy as np

    rows = [row for row in facts.metrics if name in row and words.number(row.get("step")) is not None]
    pairs = [(row["step"], value) for row in rows if (value := words.number(row[name])) is not None]
    table = np.array(pairs, dtype=float).reshape(-1, 2)
    return Series(table[:, 0], table[:, 1], len(rows) - len(pairs))


def curves(facts: Facts, name: str = "run") -> list[Figure]:
    """The figures of a run that have something to show; `name` keeps the ids of several runs on a page apart."""
    drawn = [first(facts, name)]
    for column, title, tick in (
        ("kl", "KL to the base, nats an answer", words.decimal),
        ("stopped", "Share of answers that end by themselves", words.decimal),
        ("learning_rate", "Learning rate", words.decimal),
        ("grad_norm", "Gradient norm", words.decimal),
        ("tokens_per_second", "Tokens per second", words.axis),
    ):
        drawn.append(_line(facts, f"{name}-{column}", column, title, tick))
    return [figure for figure in drawn if figure is not None]


def first(facts: Facts, name: str = "run") -> Figure | None:
    """What tells most: the score where a model learns from its own answers, else the loss."""
    if series(facts, "score"):
        return _line(facts, f"{name}-score", "score", "Score of answers", words.decimal)
    return loss(facts, name)


def loss(facts: Facts, name: str = "run") -> Figure | None:
    """Training and held-out loss over steps, with perplexity at the right and trained tokens at the top."""
    trained, held = series(facts, "loss"), series(facts, "eval_loss")
    if not trained and not held:
        return None
    window = window_of(len(trained.steps))
    legend = []
    if trained:
        legend.append(("first", f"training loss{_smoothed(window)}"))
    if held:
        legend.append(("second", f"held-out loss, {words.plural(len(held.steps), 'measurement')}"))
    caption = "Nats per token."
    if _has_perplexity(trained, held):
        caption = "Nats per token at the left; its exponential, the perplexity, at the right."
    missing = trained.missing + held.missing
    if missing:
        caption += f" Not drawn, because not finite: {words.plural(missing, 'value')}."
    alt = ". ".join(
        f"{what} from {words.nats(s.values[0])} at step {words.count(s.steps[0])} to {words.nats(s.values[-1])} "
        f"at step {words.count(s.steps[-1])}"
        for what, s in (("Training loss", trained), ("Held-out loss", held))
        if s
    )

    def plot(axes: Axes) -> None:
        _noisy(axes, trained, window)
        marker = "o" if len(held.steps) <= 40 else None
        axes.plot(held.steps, held.values, color=SECOND, marker=marker, markersize=4.5)
        axes.set_ylabel("nats per token")
        _perplexity_axis(axes, trained, held)
        _token_axis(axes, facts)

    wide, narrow = (
        draw(f"{name}-loss-{size}", pixels, plot, alt, right=0.68, top=0.48)
        for size, pixels in (("wide", WIDE), ("narrow", NARROW))
    )
    return Figure("Loss", caption, legend, wide, narrow)


def _line(facts: Facts, name: str, column: str, title: str, tick: Callable[[float], str]) -> Figure | None:
    found = series(facts, column)
    if not found:
        return None
    window = 1 if column == "learning_rate" else window_of(len(found.steps))
    last, most = float(found.values[-1]), float(found.values.max())
    alt = f"{title}: {words.decimal(last)} at the end, at most {words.decimal(most)}"

    def plot(axes: Axes) -> None:
        _noisy(axes, found, window)
        axes.set_ylim(bottom=min(0.0, float(found.values.min())))
        axes.yaxis.set_major_formatter(lambda value, _: tick(value))

    caption = "Before clipping. " if column == "grad_norm" else ""
    caption += f"Line: mean of {window} steps; faint: every step." if window > 1 else ""
    return Figure(title, caption, [], draw(name, SMALL, plot, alt))


def _noisy(axes: Axes, found: Series, window: int) -> None:
    """The values, faint if they are also drawn smoothed."""
    few = len(found.steps) <= 2
    marker = "o" if few else None
    if window == 1:
        axes.plot(*thinned(found.steps, found.values), color=FIRST, marker=marker, markersize=4.5)
        return
    axes.plot(*thinned(found.steps, found.values), color=FIRST, alpha=0.3, linewidth=0.8)
    axes.plot(*thinned(found.steps, smoothed(found.values, window)), color=FIRST)


def window_of(count: int) -> int:
    """Steps that are averaged: a fiftieth of all, an odd number; few values are not smoothed."""
    return 1 if count < 40 else max(3, count // 50 | 1)


def smoothed(values: ndarray, window: int) -> ndarray:
    """The mean of `window` values around each; at the ends, of those that are there."""
    import numpy as np

    total = np.concatenate(([0.0], np.cumsum(values)))
    place = np.arange(len(values))
    start = np.maximum(place - window // 2, 0)
    stop = np.minimum(place + window // 2 + 1, len(values))
    return (total[stop] - total[start]) / (stop - start)


def thinned(steps: ndarray, values: ndarray) -> tuple[ndarray, ndarray]:
    """At most about `POINTS` points: the lowest and the highest of each stretch, and both ends."""
    import numpy as np

    if len(steps) <= POINTS:
        return steps, values
    kept = {0, len(steps) - 1}
    for part in np.array_split(np.arange(len(steps)), POINTS // 2):
        kept |= {int(part[values[part].argmin()]), int(part[values[part].argmax()])}
    places = sorted(kept)
    return steps[places], values[places]


def _smoothed(window: int) -> str:
    return f" (line: mean of {window} steps; faint: every step)" if window > 1 else ""


def _has_perplexity(*found: Series) -> bool:
    """exp of a loss above 15 is a number of millions that tells nothing."""
    edges = [float(edge) for one in found if one for edge in (one.values.min(), one.values.max())]
    return min(edges) >= 0 and max(edges) < 15


def _perplexity_axis(axes: Axes, *found: Series) -> None:
    import numpy as np
    from matplotlib.ticker import MaxNLocator

    if not _has_perplexity(*found):
        return
    low, high = axes.get_ylim()
    right = axes.twinx()
    right.grid(False)
    round_values: Any = [digit * 10**power for power in range(8) for digit in (1, 2, 3, 5, 7)]
    if high - low < 1:  # hardly a factor of three: equal distances tell more than round powers
        round_values = [
            float(value) for value in MaxNLocator(5).tick_values(np.exp(low), np.exp(high)) if value > 0
        ]
    inside = [value for value in round_values if low <= np.log(value) <= high]
    room = 0.085 * (high - low)
    kept: list[float] = []
    for value in inside:
        if not kept or np.log(value) - np.log(kept[-1]) >= room:
            kept.append(value)
    right.set_yticks(np.log(kept), [words.axis(value) for value in kept])
    right.set_ylim(low, high)
    right.set_ylabel("perplexity", rotation=270, labelpad=14)


def _token_axis(axes: Axes, facts: Facts) -> None:
    """Trained tokens so far, at the steps where they reach a round number."""
    import numpy as np
    from matplotlib.ticker import MaxNLocator

    targets = series(facts, "targets")
    if len(targets.steps) < 2:
        return
    so_far = np.cumsum(targets.values)
    low, high = axes.get_xlim()
    round_values = MaxNLocator(5, steps=[1, 2, 5, 10]).tick_values(0, so_far[-1])
    ticks = [value for value in round_values if so_far[0] <= value <= so_far[-1]]
    top = axes.secondary_xaxis("top")
    top.set_xticks(np.interp(ticks, so_far, targets.steps), [words.axis(float(tick)) for tick in ticks])
    top.spines["top"].set_visible(False)
    top.set_xlabel("trained tokens", labelpad=6)
    axes.set_xlim(low, high)


def draw(
    name: str,
    pixels: tuple[int, int],
    plot: Callable[[Axes], None],
    alt: str,
    right: float = 0.2,
    top: float = 0.14,
    left: float = 0.75,
    bottom: float = 0.58,
) -> Markup:
    """An SVG element drawn by `plot`; margins in inches, because the browser's fonts are not known here."""
    from io import StringIO

    from matplotlib import style
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure as Canvas
    from matplotlib.ticker import MaxNLocator

    width, height = pixels[0] / 72, pixels[1] / 72
    with style.context(["default", SETTINGS]):
        canvas = Canvas(figsize=(width, height))
        FigureCanvasSVG(canvas)
        canvas.subplots_adjust(left / width, bottom / height, 1 - right / width, 1 - top / height)
        axes = canvas.subplots()
        axes.set_xlabel("step")
        axes.xaxis.set_major_locator(MaxNLocator(2 + pixels[0] // 180, integer=True, steps=[1, 2, 5, 10]))
        axes.xaxis.set_major_formatter(lambda value, _: words.axis(value))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.margins(x=0.015)
        plot(axes)
        text = StringIO()
        canvas.savefig(text, format="svg", metadata={"Date": None})
    return _for_page(text.getvalue(), name, alt)


def _for_page(svg: str, name: str, alt: str) -> Markup:
    """Ids of its own, colours of the page, fonts of the page, and nothing that is not needed for drawing."""
    box = re.search(r'viewBox="([\d. ]+)"', svg)
    assert box, "matplotlib writes a viewBox"
    body = svg[svg.index(">", svg.index("<svg")) + 1 : svg.rindex("</svg>")]
    for waste in (r"<!--.*?-->", r"<metadata>.*?</metadata>", r"<defs>\s*<style.*?</style>\s*</defs>"):
        body = re.sub(waste, "", body, flags=re.DOTALL)
    body = re.sub(r'\bid="', f'id="{name}-', body)
    body = body.replace("url(#", f"url(#{name}-").replace('xlink:href="#', f'href="#{name}-')
    body = re.sub(r"font: ([\d.]+px)[^;\"]*", r"font-size: \1", body)
    body = re.sub(r"font-family: [^;\"]*;? ?", "", body)
    for stand_in, variable in COLOURS.items():
        body = body.replace(stand_in, f"var(--{variable})")
    body = re.sub(r"\n\s*", "\n", body)
    return Markup('<svg viewBox="{}" role="img" aria-label="{}">{}</svg>').format(box[1], alt, Markup(body))


def table(facts: Facts, most: int = 12) -> list[list[str]]:
    """Rows spread over the run, first and last among them, for those who prefer numbers to curves."""
    rows = [row for row in facts.metrics if words.number(row.get("step")) is not None]
    measured = [row for row in rows if words.number(row.get("eval_loss")) is not None]
    if len(measured) >= 3:
        rows = [*rows[:1], *(row for row in measured if row is not rows[0])]
    amount = min(most, len(rows))
    chosen = [rows[round(i * (len(rows) - 1) / max(1, amount - 1))] for i in range(amount)]
    return [
        [
            words.count(row["step"]), words.nats(row.get("loss")), words.nats(row.get("eval_loss")),
            words.decimal(row.get("learning_rate")), words.decimal(row.get("grad_norm")),
            words.count(row.get("tokens_per_second")),
        ]
        for row in chosen
    ]  # fmt: skip
