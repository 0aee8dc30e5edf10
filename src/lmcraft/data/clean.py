"""Find exact and near duplicates among records and leave all but the first of each out.

1. Exact: equal after Unicode NFKC, case folding and joining white space; so "Hello  World" and "hello world" are one.
2. Near: the Jaccard similarity of the sets of 5-word pieces is at least `threshold`. MinHash with banding proposes
   candidates (Broder 1997; the datasketch library), and every candidate is verified by the true similarity, so chance
   can only miss a duplicate, never invent one. MinHash uses a fixed seed: the same input gives the same result.
3. What stays is the first in the order given; each removed record is reported with the record it duplicates.

Proved by tests/unit/data/test_clean.py.
"""

from __future__ import annotations

import hashlib
import importlib
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from ..core.errors import UserError
from ..core.log import Progress
from .records import Record, Where, kind, parts

R = TypeVar("R", bound=Record)

PIECE_WORDS = 5
_PERMUTATIONS = 128
# The bands that datasketch chooses for 0.8 itself would propose only 40 % of the pairs that are exactly 0.8 similar. A
# wider net that weighs misses nine times false alarms proposes 99.99 %; false alarms cost a comparison, no record.
_NET = 0.8
_WEIGHTS = (0.1, 0.9)  # of false alarms, of misses


@dataclass(frozen=True, slots=True)
class Removed:
    """One record that was left out, and the kept one it repeats; similarity 1.0 means exact."""

    where: Where
    of: Where
    similarity: float


def exact(records: Sequence[R]) -> tuple[list[R], list[Removed]]:
    """The records without repetitions, and the repetitions."""
    return _parted(records, {place: (first, 1.0) for place, first in _repetitions(records).items()})


def near(records: Sequence[R], threshold: float = 0.8) -> tuple[list[R], list[Removed]]:
    """The records without those at least `threshold` similar to an earlier one that was kept, and those.

    Exact repetitions are among them.

    Raises:
        UserError: datasketch is not installed, or the threshold is not between 0 and 1.
    """
    if not 0 < threshold <= 1:
        raise UserError(f"the similarity threshold is {threshold}", why="it must be above 0 and at most 1")
    datasketch = _datasketch()
    index = datasketch.MinHashLSH(threshold=_NET * threshold, num_perm=_PERMUTATIONS, weights=_WEIGHTS)
    repeated = _repetitions(records)
    twins: dict[int, tuple[int, float]] = {}
    pieces: dict[int, set[bytes]] = {}
    with Progress(len(records), "records", "near duplicates") as progress:
        for place, record in enumerate(records):
            progress.update(place + 1)
            if place in repeated:
                first = repeated[place]
                twins[place] = twins.get(first, (first, 1.0))
                continue
            mine = _pieces(record)
            sketch = datasketch.MinHash(num_perm=_PERMUTATIONS, seed=1)
            sketch.update_batch(list(mine))
            twin = _twin(mine, sorted(index.query(sketch)), pieces, threshold)
            if twin is None:
                index.insert(place, sketch)
                pieces[place] = mine
            else:
                twins[place] = twin
    return _parted(records, twins)


def _repetitions(records: Sequence[Record]) -> dict[int, int]:
    """The place of every exact repetition, with the place of what it repeats."""
    seen: dict[bytes, int] = {}
    firsts = ((place, seen.setdefault(_digest(record), place)) for place, record in enumerate(records))
    return {place: first for place, first in firsts if place != first}


def _parted(records: Sequence[R], twins: dict[int, tuple[int, float]]) -> tuple[list[R], list[Removed]]:
    """Kept records, and the removed ones as they are reported, both in the order given."""
    kept = [record for place, record in enumerate(records) if place not in twins]
    removed = [
        Removed(records[place].where, records[first].where, similarity)
        for place, (first, similarity) in sorted(twins.items())
    ]
    return kept, removed


def _datasketch() -> Any:
    try:
        return importlib.import_module("datasketch")
    except ImportError as error:
        raise UserError(
            "finding near duplicates needs datasketch, which is not installed",
            fix="pip install 'lmcraft[data]'",
        ) from error


def _twin(
    mine: set[bytes], candidates: list[int], pieces: dict[int, set[bytes]], threshold: float
) -> tuple[int, float] | None:
    """The first kept record that is truly similar enough, with the similarity."""
    for candidate in candidates:
        similarity = jaccard(mine, pieces[candidate])
        if similarity >= threshold:
            return candidate, similarity
    return None


def jaccard(left: set[bytes], right: set[bytes]) -> float:
    """|left ∩ right| / |left ∪ right|."""
    shared = len(left & right)
    return shared / (len(left) + len(right) - shared)


def _normal(record: Record) -> Iterator[str]:
    """The record's strings as they are compared, each with what it is."""
    yield kind(record)
    for name, text in parts(record):
        yield name
        yield " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def _digest(record: Record) -> bytes:
    return hashlib.sha256("\0".join(_normal(record)).encode("utf-8")).digest()


def _pieces(record: Record) -> set[bytes]:
    """Hashes of all runs of 5 words; a shorter record is one piece."""
    words = " ".join(_normal(record)).split()
    runs = range(max(1, len(words) - PIECE_WORDS + 1))
    return {
        hashlib.blake2b(" ".join(words[at : at + PIECE_WORDS]).encode(), digest_size=8).digest()
        for at in runs
    }
