"""Entities in tagged words, by the rule of CoNLL's evaluation script.

Tjong Kim Sang and De Meulder 2003 (https://aclanthology.org/W03-0419), script `conlleval`.

1. `B-X` begins an entity of type X, `I-X` goes on with it, every other tag is outside. `S-X` is an entity of one word,
   `E-X` the last word of one (BIOES).
2. An `I-X` that follows nothing, or an entity of another type, begins an entity as well: so the older IOB1 is read
   right, and an ill-formed prediction counts as what it most likely means.

Proved by tests/unit/text/test_entities.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

OUTSIDE = "O"
_BEGINS, _INSIDE = "BS", "IE"


class Entity(NamedTuple):
    """Words start … stop-1 are one entity of this type."""

    start: int
    stop: int
    type: str


def entities(tags: Sequence[str]) -> list[Entity]:
    """The entities of a sentence in order."""
    found: list[Entity] = []
    start, open_type = 0, None
    before = ""
    for place, tag in enumerate([*tags, OUTSIDE]):
        mark, _, kind = tag.partition("-")
        if mark not in (*_BEGINS, *_INSIDE) or not kind:
            mark, kind = "", ""
        goes_on = mark and mark in _INSIDE and kind == open_type and before not in ("S", "E")
        if open_type is not None and not goes_on:
            found.append(Entity(start, place, open_type))
            open_type = None
        if mark and not goes_on:
            start, open_type = place, kind
        before = mark
    return found
