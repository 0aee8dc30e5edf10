"""From token shards to batches: seeded order, sharded by rank, resumable to the row.

1. The order of rows is a pure function of (seed, epoch); the only state is how many rows have been read. So resuming
   needs one number, and nothing depends on global random state.
2. Every optimizer step reads `batch_size` rows over all ranks; rank r takes rows r, r+world, r+2·world …, or groups
   of rows where the loss of a row depends on those of its group.
3. The stream runs on from one epoch into the next without a short batch.
4. Without packing, rows of similar length stand in one batch (`alike`) and padding that all rows share is cut off;
   lengths are compared among some batches' worth of shuffled rows only, so that batches still differ from epoch to
   epoch. Who needs batches that are fair samples of the rows sets `alike` to False.
5. `finish` changes a batch as its stage wants (masking), from one seed a row that depends on the row's place in the
   stream alone.

Proved by tests/unit/data/test_loader.py and tests/faults/test_kill.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..layers.source import Source
from .batch import IGNORE, Batch
from .pack import Piece, best_fit, one_a_row, pieces
from .tokens import Tokens

Finish = Callable[[Batch, Sequence[int]], Batch]
BUCKET_BATCHES = 50  # rows are sorted by length among so many batches' worth
# Widths of unpacked batches are rounded up: ever new sizes would scatter over the heap.
WIDTH_STEP = 4


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
        finish: Finish | None = None,
        group: int = 1,
    ) -> None:
        self.tokens, self.width, self.batch_size, self.seed = tokens, width, batch_size, seed
        self.pack, self.rank, self.world, self.finish = pack, rank, world, finish
        self.alike = not pack
        self.group = group
        # Where each position predicts its own label, every id is an input; else the last one is only a target.
        self.labelled = tokens.labels is not None
        parts = pieces(tokens.lengths + self.labelled, width)
        rows = best_fit(parts, width) if pack else one_a_row(parts)
        trains = [any(self._targets(p).any() for p in row) for row in rows]
        self.rows = [row for row, any_target in zip(rows, trains, strict=True) if any_target]
        self.read = 0
        self._orders: dict[int, np.ndarray] = {}
        self.fill = self._fill(rows)

    def _targets(self, piece: Piece) -> np.ndarray:
        start = self.tokens.offsets[piece.document] + (not self.labelled)
        return self.tokens.trained[start + piece.start : start + piece.stop]

    def _fill(self, packed: list) -> Fill:
        inputs = sum(piece.stop - piece.start for row in self.rows for piece in row)
        targets = int(sum(self._targets(piece).sum() for row in self.rows for piece in row))
        return Fill(
            documents=len(self.tokens),
            rows=len(self.rows),
            tokens=inputs,
            targets=targets,
            padding=sum(len(part) * self._width(part) for part in self._batches()) - inputs,
            cut_documents=int((self.tokens.lengths - (not self.labelled) > self.width).sum()),
            rows_without_target=len(packed) - len(self.rows),
        )

    def _batches(self) -> list[list[int]]:
        """The rows of the first epoch's batches."""
        order = [*range(len(self.rows))] if self.pack else self._order(0).tolist()
        return [order[start : start + self.batch_size] for start in range(0, len(order), self.batch_size)]

    def _width(self, rows: list[int]) -> int:
        """How many positions a batch of these rows has."""
        if self.pack:
            return self.width
        longest = max(sum(p.stop - p.start for p in self.rows[row]) for row in rows)
        return min(self.width, -(-longest // WIDTH_STEP) * WIDTH_STEP)

    @property
    def epoch(self) -> float:
        """How often the data has been read."""
        return self.read / max(1, len(self.rows))

    def next(self) -> Batch:
        """The next batch of this rank."""
        mine = [n for n in range(self.batch_size) if n // self.group % self.world == self.rank]
        places = [self.read + n for n in mine]
        batch = self.batch([self._row_at(place) for place in places], places)
        self.read += self.batch_size
        return batch

    def state(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """What a checkpoint has to keep, to go on from here: tensors and facts."""
        return {}, {"read": self.read}

    def restore(self, tensors: Mapping[str, torch.Tensor], facts: Mapping[str, Any]) -> None:
        """Goes on from a checkpoint."""
        self.read = facts["read"]

    def _row_at(self, position: int) -> int:
        epoch, place = divmod(position, len(self.rows))
        if epoch not in self._orders:  # a batch may straddle two epochs
            self._orders = {e: o for e, o in self._orders.items() if e == epoch - 1} | {
                epoch: self._order(epoch)
            }
        return int(self._orders[epoch][place])

    def _order(self, epoch: int) -> np.ndarray:
        """The rows of one epoch in the order they are read."""
        order = _permutation(len(self.rows), self.seed, epoch)
        if not self.alike:
            return order
        # The first rows fill up the last batch of the epoch before; buckets begin where batches do.
        lead = -epoch * len(order) % self.batch_size
        whole = (len(order) - lead) // self.batch_size * self.batch_size
        middle = order[lead : lead + whole]
        sizes = np.array([self._size(row) for row in middle])
        step = BUCKET_BATCHES * self.batch_size
        buckets = [np.argsort(sizes[i : i + step], kind="stable") + i for i in range(0, whole, step)]
        if buckets:
            batches = middle[np.concatenate(buckets)].reshape(-1, self.batch_size)
            middle = batches[_permutation(len(batches), self.seed, epoch)].flatten()
        return np.concatenate((order[:lead], middle, order[lead + whole :]))

    def _size(self, row: int) -> int:
        return sum(p.stop - p.start + len(self.tokens.source(p.document)) for p in self.rows[row])

    def batch(self, rows: list[int], seeds: Sequence[int] | None = None) -> Batch:
        """The rows with these numbers as one batch; `seeds` (default: the numbers) are for `finish`."""
        width = self._width(rows)
        tokens_BT = np.zeros((len(rows), width), dtype=np.int64)
        targets_BT = np.full((len(rows), width), IGNORE, dtype=np.int64)
        segments_BT = np.zeros((len(rows), width), dtype=np.int64)
        for b, row in enumerate(rows):
            place = 0
            for number, piece in enumerate(self.rows[row], start=1):
                span = slice(place, place + piece.stop - piece.start)
                tokens_BT[b, span], targets_BT[b, span] = self._piece(piece)
                segments_BT[b, span] = number
                place = span.stop
        where = [
            ", ".join(dict.fromkeys(self.tokens.where(p.document) for p in self.rows[row])) for row in rows
        ]
        arrays = (torch.from_numpy(array) for array in (tokens_BT, targets_BT, segments_BT))
        batch = Batch(*arrays, where, self._source(rows), signals=self._signals(rows))
        return batch if self.finish is None else self.finish(batch, [*(rows if seeds is None else seeds)])

    def _piece(self, piece: Piece) -> tuple[np.ndarray, np.ndarray]:
        """Inputs and targets of one piece."""
        base = self.tokens.offsets[piece.document]
        if self.tokens.labels is not None:
            span = slice(base + piece.start, base + piece.stop)
            return self.tokens.ids[span], self.tokens.labels[span]
        ids = self.tokens.ids[base + piece.start : base + piece.stop + 1].astype(np.int64)
        return ids[:-1], np.where(self._targets(piece), ids[1:], IGNORE)

    def _signals(self, rows: list[int]) -> dict[str, torch.Tensor]:
        """The numbers of each row's first document, float32 [B]."""
        if self.tokens.signals is None:
            return {}
        found = torch.from_numpy(self.tokens.signals[[self.rows[row][0].document for row in rows]])
        return {name: found[:, n] for n, name in enumerate(self.tokens.meta["signals"])}

    def _source(self, rows: list[int]) -> Source | None:
        """The sources of the rows' documents, one after the other, each in its document's segment."""
        if self.tokens.sources is None:
            return None
        parts = [[self.tokens.source(piece.document) for piece in self.rows[row]] for row in rows]
        longest = max(sum(map(len, row)) for row in parts)
        tokens_BS = np.zeros((len(rows), -(-longest // WIDTH_STEP) * WIDTH_STEP), dtype=np.int64)
        segments_BS = np.zeros_like(tokens_BS)
        for b, row in enumerate(parts):
            place = 0
            for number, ids in enumerate(row, start=1):
                tokens_BS[b, place : place + len(ids)] = ids
                segments_BS[b, place : place + len(ids)] = number
                place += len(ids)
        return Source(torch.from_numpy(tokens_BS), torch.from_numpy(segments_BS))


def _permutation(count: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(count)
