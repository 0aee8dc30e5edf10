"""The tensors of one optimizer step: tokens, targets, segments, and a source where one is read.

1. `targets_BT[b, t]` is what to predict at position t (mostly the next token), or IGNORE where nothing is trained.
2. `segments_BT` is 0 for padding and n for the nth document of a row. It alone decides padding, packing, positions
   and attention masks, so they cannot disagree. Source segment n belongs to target segment n.
3. `signals` are numbers that a loss needs beside the tokens, by name: one a row [B] (the margin of a preference), or
   one a position [B, T] (the advantage of a token).

Legend: B rows, T positions, S source positions.
Proved by tests/unit/data/test_pack.py and tests/invariance/test_accumulation.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ..layers.source import Source

IGNORE = -100


@dataclass(frozen=True)
class Batch:
    """int64 tokens, targets and segments, all [B, T]; `rows` names where each row came from.

    Rows whose loss depends on one another stand in groups of `group` rows, which `split` never parts.
    """

    tokens_BT: Tensor
    targets_BT: Tensor
    segments_BT: Tensor
    rows: list[str] = field(default_factory=list)
    source: Source | None = None
    group: int = 1
    signals: dict[str, Tensor] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """How many targets are trained."""
        return int((self.targets_BT != IGNORE).sum())

    @property
    def tokens(self) -> int:
        """How many real tokens are read, those of a source included."""
        read = int((self.segments_BT != 0).sum())
        return read if self.source is None else read + int((self.source.segments_BS != 0).sum())

    @property
    def reads(self) -> dict[str, Source]:
        """What a model is given beside tokens and segments: the source, where there is one."""
        return {} if self.source is None else {"source": self.source}

    def split(self, rows: int) -> Iterator[Batch]:
        """Micro-batches of at most `rows` rows, in order; of a whole group, where that is larger."""
        rows = max(self.group, rows // self.group * self.group)
        for start in range(0, len(self.tokens_BT), rows):
            part = slice(start, start + rows)
            yield self._each(lambda tensor, part=part: tensor[part], self.rows[part])

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=True), self.rows)

    def _each(self, change, rows: list[str]) -> Batch:
        source = self.source
        if source is not None:
            source = Source(change(source.tokens_BS), change(source.segments_BS))
        return replace(
            self, tokens_BT=change(self.tokens_BT), targets_BT=change(self.targets_BT),
            segments_BT=change(self.segments_BT), rows=rows, source=source,
            signals={name: change(numbers) for name, numbers in self.signals.items()},
        )  # fmt: skip
