"""Which runs a comparison consists of: every combination of the settings that were given several values.

    adapter.kind=lora,freeze seed=1,2 train.steps=50     four runs of 50 steps

1. Values are separated by commas that stand outside brackets, braces and quotes, so `lengths=[1,2]` is one value.
2. `seed` is not compared: runs that differ in it alone are repetitions, from which the spread is known.

Proved by tests/unit/compare/test_grid.py.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass

from ..core.errors import UserError

MOST = 1000
OPEN, CLOSE = "[{(", "]})"


@dataclass(frozen=True)
class Trial:
    """One run: what distinguishes it, and its seed if several were asked for."""

    settings: tuple[tuple[str, str], ...]
    seed: str | None

    @property
    def arguments(self) -> list[str]:
        """What makes this run out of what all have in common."""
        return [f"{key}={value}" for key, value in self.settings] + self._seeded()

    @property
    def label(self) -> str:
        """The values that are compared, short."""
        kinds = [
            value if key.endswith(".kind") else f"{key.rpartition('.')[2]} {value}"
            for key, value in self.settings
        ]
        return ", ".join(kinds) or "as asked"

    @property
    def slug(self) -> str:
        """A name for its directory."""
        words = [re.sub(r"[^A-Za-z0-9.+-]+", "-", argument.replace("=", "-")) for argument in self.arguments]
        return "_".join(words)[:150] or "run"

    def _seeded(self) -> list[str]:
        return [] if self.seed is None else [f"seed={self.seed}"]


@dataclass(frozen=True)
class Grid:
    """What all runs share, and the runs."""

    shared: list[str]
    trials: list[Trial]


def read(arguments: Sequence[str]) -> Grid:
    """The runs that `key=a,b,c` arguments ask for.

    Raises:
        UserError: nothing has several values, the same value twice, or far too many runs.
    """
    shared, axes = [], []
    for argument in arguments:
        key, equals, text = argument.partition("=")
        found = values(text)
        if not equals or len(found) < 2:
            shared.append(argument)
            continue
        if len(set(found)) < len(found):
            raise UserError(f"a value of {key} is given twice", where=argument, fix="leave one of them out")
        axes.append([(key.strip(), value) for value in found])
    seeds = [axis for axis in axes if axis[0][0] == "seed"]
    compared = [axis for axis in axes if axis[0][0] != "seed"]
    if not compared:
        raise UserError(
            "there is nothing to compare", why="no setting has several values",
            fix="give one a list: adapter.kind=lora,freeze or train.lr=1e-4,1e-3",
        )  # fmt: skip
    repeated = [value for _, value in seeds[0]] if seeds else [None]
    trials = [Trial(chosen, seed) for chosen in itertools.product(*compared) for seed in repeated]
    if len(trials) > MOST:
        raise UserError(
            f"these are {len(trials):,} runs", why=f"at most {MOST:,} are compared", fix="give fewer values"
        )
    slugs = [trial.slug for trial in trials]
    if len(set(slugs)) < len(slugs):
        raise UserError("two of these runs would have the same directory", where=", ".join(arguments),
                        fix="give values that differ in letters or digits")  # fmt: skip
    return Grid(shared, trials)


def values(text: str) -> list[str]:
    """The parts of a value between commas that stand outside brackets and quotes."""
    parts, depth, quote = [""], 0, ""
    for character in text:
        if quote:
            quote = "" if character == quote else quote
        elif character in "\"'":
            quote = character
        elif character in OPEN:
            depth += 1
        elif character in CLOSE:
            depth -= 1
        elif character == "," and depth == 0:
            parts.append("")
            continue
        parts[-1] += character
    return [part.strip() for part in parts]
