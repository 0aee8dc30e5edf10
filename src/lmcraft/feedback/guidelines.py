"""Guidelines: what raters are asked, in words, and the criteria with their scales.

A file of guidelines is YAML:

    text: |
      Which answer helps more? Read both to the end.
    criteria:
      - {name: coherence, asks: Does it hang together?, low: 1, high: 5, weight: 2}

1. Guidelines are never changed in place. Every change is a new version, and each rating names the version it was
   made under, so ratings under different words are not mixed without being seen.
2. Without criteria raters only compare.

Proved by tests/feedback/test_guidelines.py.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from ..core import config
from ..core.config import Strict
from ..core.errors import UserError

DEFAULT_TEXT = (
    "Read the prompt and every answer to the end. Judge what is written, not who may have written it. "
    "If you cannot judge, skip; if something should not be shown to people, flag it."
)
# What a name alone asks; the words of the four criteria that most guidelines have.
ASKS = {
    "coherence": "Does the answer hang together, from sentence to sentence?",
    "relevance": "Does it answer what was asked?",
    "safety": "Could nobody be harmed by following it?",
    "ethics": "Is it fair and honest towards everyone it speaks of?",
}


class Criterion(Strict):
    """One thing that is rated by a whole number from `low` to `high`; high is good."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_-]*$", max_length=40)
    asks: str = Field("", description="the question raters read")
    low: int = Field(1, ge=-100, le=100)
    high: int = Field(5, ge=-100, le=100)
    weight: float = Field(1.0, ge=0, description="how much it counts when ratings become a preference")

    @model_validator(mode="after")
    def _upwards(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"the scale goes from {self.low} to {self.high}; low must be below high")
        return self


class Guidelines(Strict):
    """The text that raters read, the criteria, and whether answers are compared with each other."""

    text: str = Field(DEFAULT_TEXT, max_length=100_000)
    criteria: tuple[Criterion, ...] = ()
    compare: bool = Field(True, description="whether raters say which answer is better")

    @model_validator(mode="after")
    def _askable(self) -> Self:
        names = [criterion.name for criterion in self.criteria]
        if len(set(names)) != len(names):
            raise ValueError("two criteria have the same name")
        if not names and not self.compare:
            raise ValueError("there is nothing to rate: give criteria, or compare: true")
        return self

    def criterion(self, name: str) -> Criterion | None:
        """The criterion of this name, or None."""
        return next((one for one in self.criteria if one.name == name), None)


def read(path: Path | None, criteria: Sequence[str] = ()) -> Guidelines:
    """Guidelines from a file (.yaml: all of it; otherwise: the text) with criteria from the command line added.

    Args:
        criteria: names, with a scale behind a colon if it is not 1 to 5: "safety:0-1".

    Raises:
        UserError: the file cannot be read, or what it says does not fit together.
    """
    if path is not None and path.suffix not in (".yaml", ".yml"):
        try:
            document = config.Document(str(path), {"text": path.read_text(encoding="utf-8")})
        except (OSError, UnicodeDecodeError) as error:
            raise UserError("cannot read the guidelines", where=str(path), why=str(error)) from error
    else:
        document = config.read(path)
    if criteria:
        given = document.value.get("criteria")
        document.value["criteria"] = [*(given if isinstance(given, list) else []), *map(_criterion, criteria)]
    return config.validate(Guidelines, document)


def _criterion(written: str) -> dict[str, str | int]:
    found = re.fullmatch(r"([a-z][a-z0-9_-]*)(?::(-?\d{1,3})-(-?\d{1,3}))?", written)
    if not found:
        raise UserError(f"{written!r} is no criterion", where="option --criteria",
                        fix="write a name, or a name with its scale: coherence or safety:0-1")  # fmt: skip
    name, low, high = found.groups()
    scale = {} if low is None else {"low": int(low), "high": int(high)}
    return {"name": name, "asks": ASKS.get(name, ""), **scale}
