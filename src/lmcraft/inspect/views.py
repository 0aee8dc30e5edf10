"""The heat maps of the page: the alignment with everything that can be chosen, and the grid of all layers and heads.

1. All pictures of a page together stay under a budget of bytes. Where a model has so many heads that they would not,
   the pictures show the first tokens only, and the page says how many.

Legend: H heads, T rows, M columns.
Proved by tests/unit/inspect/test_page.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from ..core.log import Progress
from .align import Alignment
from .look import Inspection, rows_of
from .picture import ACROSS, address, heat, png
from .record import CROSS, ENCODER, SELF, Map

BUDGET_CELLS = 5_000_000  # about a byte each when nothing can be compressed, and a third more in text
BESIDE = 400.0  # CSS pixels of a large picture that stands beside the grid of all heads
TITLES = {
    ENCODER: "The source on itself (encoder)",
    SELF: "Every token on those it may see",
    CROSS: "The target on the source (cross-attention)",
}


@dataclass(frozen=True)
class View:
    """One large heat map; `images` are the `data:` addresses of what can be chosen, if the page's thumbs have none."""

    id: str
    label: str
    root: bool
    choose: str
    choices: list[str]
    images: list[str]
    svg: Markup


@dataclass(frozen=True)
class Thumb:
    """One head in the grid."""

    name: str
    layer: int
    first: bool
    image: str


@dataclass(frozen=True)
class Group:
    """All layers and heads of one side."""

    title: str
    view: View
    heads: int
    thumbs: list[Thumb]


def of_alignment(found: Alignment, number: int, label: str) -> View:
    """The alignment with everything that can be chosen."""
    images = [address(png(choice.weights_TS, linear=True)) for choice in found.choices]
    names = [choice.name for choice in found.choices]
    alt = f"Alignment of {len(found.rows)} rows and {len(found.columns)} columns ({names[0]}): {told(found)}"
    svg = heat(images[0], found.rows, found.columns, alt, linear=True)
    return View(f"alignment-{number}", label, False, "weights of", names, images, svg)


def told(found: Alignment, most: int = 40) -> str:
    """The strongest pair of each row in words, for those who cannot see the picture."""
    strongest = found.choices[0].weights_TS.argmax(dim=1).tolist()
    pairs = [f"{row} – {found.columns[place]}" for row, place in zip(found.rows, strongest, strict=True)]
    return "; ".join(pairs[:most])


def groups(seen: Inspection, notes: list[str]) -> list[Group]:
    """The grids of all sides; adds a note where the pictures show fewer tokens than there are."""
    if seen.gradient:
        return [_group(seen, side, 10**6, None) for side in (SELF, CROSS) if rows_of(seen.maps, side)]
    most = tokens_in_budget(seen.maps)
    longest = max((max(one.weights_HTM.shape[1:]) for one in seen.maps), default=0)
    if longest > most:
        notes.append(
            f"The pictures of attention show the first {most} tokens, because there are so many heads."
        )
    heads = sum(len(one.weights_HTM) for one in seen.maps)
    found = []
    with Progress(heads, "head", "draw") as progress:
        for side in (ENCODER, SELF, CROSS):
            if rows_of(seen.maps, side):
                found.append(_group(seen, side, most, progress))
    return found


def tokens_in_budget(seen: Sequence[Map]) -> int:
    """How many tokens all maps may show so that their cells fit the budget; causal ones have half as many."""
    longest = max((max(one.weights_HTM.shape[1:]) for one in seen), default=1)
    for most in range(longest, 16, -1):
        cells = sum(
            len(one.weights_HTM) * min(most, one.weights_HTM.shape[1]) * min(most, one.weights_HTM.shape[2])
            for one in seen
        )
        if cells / 2 <= BUDGET_CELLS:
            return most
    return min(longest, 16)


def _group(seen: Inspection, side: str, most: int, progress: Progress | None) -> Group:
    maps = rows_of(seen.maps, side)
    rows, columns = labels(seen, side, maps[0].weights_HTM.shape[-1])
    rows, columns = rows[:most], columns[:most]
    thumbs = []
    for one in maps:
        for head, weights_TM in enumerate(one.weights_HTM[:, : len(rows), : len(columns)]):
            name = name_of(seen, one, head)
            thumbs.append(Thumb(name, one.layer + 1, head == 0, address(png(weights_TM))))
            if progress is not None:
                progress.update()
    title = "What each prediction depends on" if seen.gradient else TITLES[side]
    if seen.gradient and side == CROSS:
        title = "What each prediction depends on in the source"
    names = [thumb.name for thumb in thumbs]
    view = View(
        f"view-{side}", title, True, "weights of", names, [thumbs[0].image] if len(thumbs) == 1 else [],
        heat(thumbs[0].image, rows, columns, f"{title}, {names[0]}", across=BESIDE if len(thumbs) > 1 else ACROSS),
    )  # fmt: skip
    return Group(title, view, max(len(one.weights_HTM) for one in maps), thumbs)


def name_of(seen: Inspection, one: Map, head: int) -> str:
    """What one table is called."""
    if seen.gradient:
        return "gradients"
    several = f", head {head + 1}" if len(one.weights_HTM) > 1 else ""
    return f"layer {one.layer + 1}{several} ({one.module})"


def labels(seen: Inspection, side: str, columns: int) -> tuple[list[str], list[str]]:
    """What stands at the rows and at the columns of a side's maps.

    A model with learned prompt vectors sees more than its tokens: those come first and are numbered.
    """
    source = [piece.label for piece in seen.source]
    target = [piece.label for piece in seen.target[: seen.read]]
    written = [piece.label for piece in seen.target[1 : seen.read + 1]]
    if side == CROSS:
        return written, source
    if seen.gradient:
        return [*written, *["(next)"] * (seen.read - len(written))], target
    tokens = source if side == ENCODER else target
    return tokens, [*[f"prompt {n + 1}" for n in range(columns - len(tokens))], *tokens]
