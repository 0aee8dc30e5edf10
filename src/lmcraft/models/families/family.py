"""What a public family brings: how its config.json and tensor names map to ours, and back.

1. A family may hold a model only if it computes exactly the same function; whatever in a config.json would change the
   function and has no counterpart here is refused, never ignored.
2. Names are given by one table, `links`; reading and writing both follow it.

Proved by tests/parity/test_decoder.py and tests/unit/models/test_families.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from ...core.errors import UserError


@dataclass(frozen=True)
class Link:
    """One public tensor and our tensors that it holds (several: joined along the first dimension).

    Attributes:
        transposed: whether the public tensor is kept as [in, out].
        lead: rows that the public tensor has in front and nobody reads (BART's positions begin at row 2).
        as_row: whether the public tensor is a row [1, n] of our vector [n].
        copies: public names under which the same tensor may be stored once more (a tied head); equal bytes are asked.
    """

    public: str
    ours: tuple[str, ...]
    transposed: bool = False
    lead: int = 0
    as_row: bool = False
    copies: tuple[str, ...] = ()


class Family(Protocol):
    """A module in this folder.

    One that has more files than config.json names them in `BESIDE`, reads them from what `from_public` is given, under
    their names, and says in `files(config)` what is written into them.
    """

    TYPES: Mapping[str, str]
    """Public model types that are read, and the class of each (`architectures` in config.json)."""

    PREFIXES: Mapping[str, str]
    """Beginnings of stored names and what they stand for in `links`: other classes of the family name them so."""

    LEFT_OUT: Mapping[str, str]
    """Regular expressions of stored names that are no weights of the model, and why."""

    def from_public(self, public: dict[str, Any], where: str) -> Any:
        """Our Config of a config.json; UserError for a setting that would be ignored."""
        ...

    def to_public(self, config: Any) -> dict[str, Any]:
        """The config.json of a Config that the family expresses."""
        ...

    def expresses(self, config: Any) -> bool:
        """Whether the family computes what a Config (of any model kind) describes."""
        ...

    def links(self, config: Any) -> Iterator[Link]:
        """All tensors of a model of this Config."""
        ...


def require(public: Mapping[str, Any], where: str, **allowed: tuple) -> None:
    """Refuses a setting that is there with another value than the allowed ones."""
    for key, values in allowed.items():
        if key in public and public[key] not in values:
            raise refusal(f"{key} = {public[key]!r}", where, f"supported: {', '.join(map(repr, values))}")


def refusal(what: str, where: str, why: str) -> UserError:
    """The error for a setting of a config.json that has no counterpart here."""
    return UserError(
        f"{what} is not supported",
        where=where,
        why=f"{why}; ignoring it would change what the model computes",
    )
