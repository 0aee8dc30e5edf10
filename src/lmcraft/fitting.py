"""What would fit into a given memory: settings are changed one after the other, the cheapest first, until a plan fits.

The order is that of what a change costs: first what changes no number (smaller micro-batches), then time (activations
made again, averages in 8 bits or on disk), then what is trained (LoRA, LoRA over a base of 4 bits), then what is read
(shorter rows).

Proved by tests/cli/test_plan.py.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from . import recipe as recipes
from .core.errors import UserError
from .planning import Planned, of_recipe

UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 1 << 10, "mi": 1 << 20, "gi": 1 << 30}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?i?)b?", re.IGNORECASE)


@dataclass(frozen=True)
class Tried:
    """A plan under some more settings than were asked for, and what they cost."""

    settings: tuple[str, ...]
    costs: tuple[str, ...]
    planned: Planned


def size(text: str) -> int:
    """Bytes of "8GB", "500 MB", "2GiB".

    Raises:
        UserError: it is no size.
    """
    found = _SIZE.fullmatch(text.strip())
    if found is None or found[2].lower() not in UNITS:
        raise UserError(f"{text!r} is not a size", fix="for example --fit 8GB, 500MB or 16GiB")
    return round(float(found[1]) * UNITS[found[2].lower()])


def fit(source: str, overrides: Sequence[str], memory_bytes: int, ranks: int = 1) -> list[Tried]:
    """Plans from the settings as asked to the first that fits, which is the last; it may be that none fits."""
    tried = [Tried((), (), of_recipe(recipes.read(source, overrides), ranks))]
    settings: list[str] = []
    costs: list[str] = []
    for changes, cost in _steps(tried[0].planned):
        if tried[-1].planned.plan.peak <= memory_bytes:
            break
        more = [*settings, *changes]
        try:
            planned = of_recipe(recipes.read(source, [*overrides, *more]), ranks)
        except UserError:  # this model or base cannot be trained so
            continue
        if planned.plan.peak >= tried[-1].planned.plan.peak:
            continue
        settings, costs = more, [*costs, cost]
        tried.append(Tried(tuple(settings), tuple(costs), planned))
    return tried


def _steps(asked: Planned) -> list[tuple[list[str], str]]:
    """Settings, and what they cost, in the order in which they are tried."""
    recipe: Any = asked.recipe
    train, rows = recipe.train, asked.recipe.train.micro_batch_size or recipe.train.batch_size
    steps: list[tuple[list[str], str]] = []
    while rows > 1:
        rows //= 2
        steps.append(
            ([f"train.micro_batch_size={rows}"], "the same result; a little slower where rows are few")
        )
    if not train.checkpointing:
        steps.append((["train.checkpointing=true"], "the same result; about a third more time a step"))
    if train.optim.kind == "adamw":
        steps.append((["train.optim.kind=adamw8bit"], "nearly the same result: averages in 8 bits"))
    if recipe.base and not recipe.adapter:
        cost = "an adapter is trained, not the weights: often as good for a style or a task, worse for new knowledge"
        steps.append((["adapter=lora"], cost))
    if recipe.base:
        steps.append((["adapter=qlora"], "the base in 4 bits: a little quality, and more time a step"))
    if train.offload == "none":
        steps.append(
            (["train.offload=optimizer"], "the same result; the disk is read and written at every step")
        )
        steps.append((["train.offload=both"], "the same result; the disk is read for every block"))
    width = asked.rows.width
    while width > 64:
        width //= 2
        steps.append(([f"data.context={width}"], "rows are shorter: nothing farther apart is learned"))
    return steps
