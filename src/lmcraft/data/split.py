"""Hold out a part of the records by the hash of their content, so that membership never depends on the others.

1. A record is held out when the hash of its content and the seed falls below the fraction. Adding, removing or
   reordering other records moves nothing, and identical content is always on one side: the held-out part is never a
   copy of what was trained on.
2. The split is by record, which for text is a document and for chats a conversation, never by tokens or turns.
3. The share held is `fraction` on average. If chance gives no held (or no training) record, the one with the lowest
   (highest) hash changes sides, with all its copies.

Proved by tests/unit/data/test_split.py.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TypeVar

from ..core.errors import UserError
from .records import Record, fingerprint

R = TypeVar("R", bound=Record)

_SCALE = 2**64


def split(records: Sequence[R], fraction: float, seed: int = 0) -> tuple[list[R], list[R]]:
    """Part records into (train, held), each in the order given.

    Args:
        fraction: the share to hold out, 0 ≤ fraction < 1; 0 holds nothing.

    Raises:
        UserError: the fraction is out of range, or all records have the same content and none can be held out.
    """
    if not 0 <= fraction < 1:
        raise UserError(f"the fraction to hold out is {fraction}", why="it must be at least 0 and below 1")
    if fraction == 0 or len(records) < 2:
        return list(records), []
    hashes = [_hash(record, seed) for record in records]
    limit = int(fraction * _SCALE)
    lowest, highest = min(hashes), max(hashes)
    if lowest == highest:
        raise UserError(
            "nothing can be held out: all records have the same content",
            where=str(records[0].where),
            fix="hold out nothing, or give more data",
        )
    limit = min(max(limit, lowest + 1), highest)
    train = [record for record, hash_ in zip(records, hashes, strict=True) if hash_ >= limit]
    held = [record for record, hash_ in zip(records, hashes, strict=True) if hash_ < limit]
    return train, held


def _hash(record: Record, seed: int) -> int:
    """64 bits of SHA-256 over seed and content."""
    text = f"{seed}\0{fingerprint(record)}".encode("ascii")
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big")
