"""The tensors of one optimizer step: tokens, targets, segments.

1. `targets_BT[b, t]` is the token to predict at position t, or IGNORE where nothing is trained.
2. `segments_BT` is 0 for padding and n for the nth document of a row. It alone decides padding, packing, positions
   and attention masks, so they cannot disagree.

Legend: B rows, T positions.
Proved by tests/unit/data/test_pack.py and tests/invariance/test_accumulation.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

IGNORE = -100


@dataclass(frozen=True)
class Batch:
    """int64 tokens, targets and segments, all [B, T]; `rows` names where each row came from."""

    tokens_BT: Tensor
    targets_BT: Tensor
    segments_BT: Tensor
    rows: list[str] = field(default_factory=list)

    @property
    def count(self) -> int:
        """How many targets are trained."""
        return int((self.targets_BT != IGNORE).sum())

    @property
    def tokens(self) -> int:
        """How many real tokens are read."""
        return int((self.segments_BT != 0).sum())

    def split(self, rows: int) -> Iterator[Batch]:
        """Micro-batches of at most `rows` rows, in order."""
        for start in range(0, len(self.tokens_BT), rows):
            part = slice(start, start + rows)
            yield Batch(self.tokens_BT[part], self.targets_BT[part], self.segments_BT[part], self.rows[part])

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device."""
        return Batch(
            self.tokens_BT.to(device, non_blocking=True),
            self.targets_BT.to(device, non_blocking=True),
            self.segments_BT.to(device, non_blocking=True),
            self.rows,
        )
