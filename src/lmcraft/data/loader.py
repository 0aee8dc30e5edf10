"""From token shards to batches: seeded order, sharded by rank, resumable to the row.

1. The order of rows is a pure function of (seed, epoch); the only state is how many rows have been read. So resuming
   needs one number, and nothing depends on global random state.
2. Every optimizer step reads `batch_size` rows over all ranks; rank r takes rows r, r+world, r+2·world …
3. The stream runs on from one epoch into the next without a short batch.

Proved by tests/unit/data/test_loader.py and tests/faults/test_kill.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from .batch import IGNORE, Batch
from .pack import best_fit, one_a_row, pieces
from .tokens import Tokens


@dataclass(frozen=True)
class Fill:
    """What packing did, for the report: nothing is dropped or padded unseen."""

    documents: int
    rows: int
    tokens: int
    targets: int
    padding: int
    cut_documents: int
    rows_without_target: int


class Loader:
    """Batches of `batch_size` rows of `width` tokens, forever."""

    def __init__(
        self,
        tokens: Tokens,
        width: int,
        batch_size: int,
        seed: int,
        pack: bool = True,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.tokens, self.width, self.batch_size, self.seed = tokens, width, batch_size, seed
        self.rank, self.world = rank, world
        parts = pieces(tokens.lengths, width)
        rows = best_fit(parts, width) if pack else one_a_row(parts)
        trains = [any(self._targets(p).any() for p in row) for row in rows]
        self.rows = [row for row, any_target in zip(rows, trains, strict=True) if any_target]
        self.read = 0
        self.fill = self._fill(rows)

    def _targets(self, piece) -> np.ndarray:
        start = self.tokens.offsets[piece.document] + 1
        return self.tokens.trained[start + piece.start : start + piece.stop]

    def _fill(self, packed: list) -> Fill:
        inputs = sum(piece.stop - piece.start for row in self.rows for piece in row)
        targets = int(sum(self._targets(piece).sum() for row in self.rows for piece in row))
        return Fill(
            documents=len(self.tokens),
            rows=len(self.rows),
            tokens=inputs,
            targets=targets,
            padding=len(self.rows) * self.width - inputs,
            cut_documents=int((self.tokens.lengths - 1 > self.width).sum()),
            rows_without_target=len(packed) - len(self.rows),
        )

    @property
    def epoch(self) -> float:
        """How often the data has been read."""
        return self.read / max(1, len(self.rows))

    def next(self) -> Batch:
        """The next batch of this rank."""
        wanted = range(self.read + self.rank, self.read + self.batch_size, self.world)
        batch = self.batch([self._row_at(position) for position in wanted])
        self.read += self.batch_size
        return batch

    def _row_at(self, position: int) -> int:
        epoch, place = divmod(position, len(self.rows))
        return int(_order(len(self.rows), self.seed, epoch)[place])

    def batch(self, rows: list[int]) -> Batch:
        """The rows with these numbers as one batch."""
        tokens_BT = np.zeros((len(rows), self.width), dtype=np.int64)
        targets_BT = np.full((len(rows), self.width), IGNORE, dtype=np.int64)
        segments_BT = np.zeros((len(rows), self.width), dtype=np.int64)
        for b, row in enumerate(rows):
            place = 0
            for number, piece in enumerate(self.rows[row], start=1):
                base = self.tokens.offsets[piece.document]
                span = slice(place, place + piece.stop - piece.start)
                ids = self.tokens.ids[base + piece.start : base + piece.stop + 1].astype(np.int64)
                tokens_BT[b, span] = ids[:-1]
                targets_BT[b, span] = np.where(self._targets(piece), ids[1:], IGNORE)
                segments_BT[b, span] = number
                place = span.stop
        where = [
            ", ".join(dict.fromkeys(self.tokens.where(p.document) for p in self.rows[row])) for row in rows
        ]
        return Batch(*(torch.from_numpy(array) for array in (tokens_BT, targets_BT, segments_BT)), where)


@lru_cache(maxsize=2)  # a batch may straddle two epochs
def _order(rows: int, seed: int, epoch: int) -> np.ndarray:
    """The permutation of one epoch."""
    return np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(rows)
