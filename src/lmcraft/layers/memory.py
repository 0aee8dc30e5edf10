"""What a model remembers between calls: keys and values of attention, or the state of a recurrent network.

1. Keys and values are allocated for the longest sequence before anything is read; no step of generation adds to them.
2. `keep` takes rows out, `join` puts those of another memory behind them, so that a request can begin while others go
   on. Every memory has both. Where rows from the end take the places of others, only those are copied.
3. Rows of one batch may have different lengths. Slot m of a row holds position m. Padding at the end of a ragged
   prompt is written behind the row's length, where no query may look, and is overwritten by the next real token.

Legend: B rows, L layers, K key/value heads, M remembered positions, C head width, D width, T new positions.
Proved by tests/contract/test_models.py and tests/unit/layers/test_memory.py.
"""

from __future__ import annotations

import torch
from torch import Tensor


class KeyValues:
    """Keys and values of every layer for up to `length` positions."""

    def __init__(
        self, layers: int, rows: int, heads: int, length: int, head_width: int, like: Tensor
    ) -> None:
        shape = (layers, rows, heads, length, head_width)
        self.keys_LBKMC = torch.zeros(shape, dtype=like.dtype, device=like.device)
        self.values_LBKMC = torch.zeros_like(self.keys_LBKMC)
        self.lengths_B = torch.zeros(rows, dtype=torch.long, device=like.device)
        self.longest = 0

    @property
    def capacity(self) -> int:
        """Positions that fit."""
        return self.keys_LBKMC.shape[3]

    def place(self, steps: int) -> Tensor:
        """Positions of the next `steps` tokens of each row, int64 [B, T]."""
        if self.longest + steps > self.capacity:
            raise ValueError(f"memory holds {self.capacity} positions, {self.longest + steps} are needed")
        return self.lengths_B[:, None] + torch.arange(steps, device=self.lengths_B.device)

    def write(
        self, layer: int, keys_BKTC: Tensor, values_BKTC: Tensor, positions_BT: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Stores new keys and values; returns all slots any row may need, [B, K, M, C] each."""
        rows_B1 = torch.arange(positions_BT.shape[0], device=positions_BT.device)[:, None]
        stop = self.longest + positions_BT.shape[1]
        for store, new in ((self.keys_LBKMC, keys_BKTC), (self.values_LBKMC, values_BKTC)):
            store[layer].transpose(1, 2)[rows_B1, positions_BT] = new.transpose(1, 2).to(store.dtype)
        return self.keys_LBKMC[layer, :, :, :stop], self.values_LBKMC[layer, :, :, :stop]

    def advance(self, counts_B: Tensor) -> None:
        """Notes how many real tokens each row received."""
        self.lengths_B = self.lengths_B + counts_B
        self.longest = int(self.lengths_B.max())

    def keep(self, rows: list[int]) -> None:
        """Forgets all rows but these; a row may be named several times."""
        index = torch.tensor(rows, dtype=torch.long, device=self.lengths_B.device)
        moves = [(place, row) for place, row in enumerate(rows) if place != row]
        # Rows behind the last place are read and never written, so nothing is lost that is still needed.
        if all(row >= len(rows) for _, row in moves):
            self.keys_LBKMC = self._moved(self.keys_LBKMC, moves, len(rows))
            self.values_LBKMC = self._moved(self.values_LBKMC, moves, len(rows))
        else:
            self.keys_LBKMC = self._selected(self.keys_LBKMC, index)
            self.values_LBKMC = self._selected(self.values_LBKMC, index)
        self.lengths_B = self.lengths_B[index]
        self.longest = int(self.lengths_B.max()) if rows else 0

    def join(self, other: KeyValues) -> None:
        """Takes in the rows of another memory, behind its own; room is then that of the larger."""
        capacity = max(self.capacity, other.capacity)
        self.keys_LBKMC = self._joined(self.keys_LBKMC, other.keys_LBKMC, other.longest, capacity)
        self.values_LBKMC = self._joined(self.values_LBKMC, other.values_LBKMC, other.longest, capacity)
        self.lengths_B = torch.cat((self.lengths_B, other.lengths_B))
        self.longest = max(self.longest, other.longest)

    def _joined(self, own_LBKMC: Tensor, other_LBKMC: Tensor, longest: int, capacity: int) -> Tensor:
        L, B, K, _, C = own_LBKMC.shape
        joined = own_LBKMC.new_zeros(L, B + other_LBKMC.shape[1], K, capacity, C)
        joined[:, :B, :, : self.longest] = own_LBKMC[:, :, :, : self.longest]
        joined[:, B:, :, :longest] = other_LBKMC[:, :, :, :longest]
        return joined

    def _selected(self, store_LBKMC: Tensor, index: Tensor) -> Tensor:
        """Some rows, of which only the slots in use are copied: beams branch at every step."""
        L, _, K, M, C = store_LBKMC.shape
        selected = store_LBKMC.new_zeros(L, len(index), K, M, C)
        selected[:, :, :, : self.longest] = store_LBKMC[:, index, :, : self.longest]
        return selected

    def _moved(self, store_LBKMC: Tensor, moves: list[tuple[int, int]], count: int) -> Tensor:
        """The first `count` rows, after the moves (to, from) in place."""
        for place, row in moves:
            store_LBKMC[:, place, :, : self.longest] = store_LBKMC[:, row, :, : self.longest]
        return store_LBKMC[:, :count]


class Encoded(KeyValues):
    """Keys and values of the target, and those of the encoded source for every layer."""

    source: list[tuple[Tensor, Tensor]]
    source_segments_BS: Tensor

    def read(self, source: list[tuple[Tensor, Tensor]], segments_BS: Tensor) -> Encoded:
        """Takes in what the layers' cross-attention made of the source: keys and values [B, K, S, C] each."""
        self.source, self.source_segments_BS = source, segments_BS
        return self

    def keep(self, rows: list[int]) -> None:
        """The same, for the source too."""
        super().keep(rows)
        index = torch.tensor(rows, dtype=torch.long, device=self.lengths_B.device)
        self.source = [(keys[index], values[index]) for keys, values in self.source]
        self.source_segments_BS = self.source_segments_BS[index]

    def join(self, other: KeyValues) -> None:
        """The same, for the source too."""
        assert isinstance(other, Encoded)
        super().join(other)
        self.source = [
            (_behind(keys, more_keys, 2), _behind(values, more_values, 2))
            for (keys, values), (more_keys, more_values) in zip(self.source, other.source, strict=True)
        ]
        self.source_segments_BS = _behind(self.source_segments_BS, other.source_segments_BS, 1)


class Rereading(KeyValues):
    """Keys and values that are right only up to a length: beyond it, the tokens are kept to be read again.

    Needed where the frequencies of all positions change as a text grows (dynamic rotary scaling).
    """

    def __init__(
        self, layers: int, rows: int, heads: int, length: int, head_width: int, like: Tensor, right_up_to: int
    ) -> None:
        super().__init__(layers, rows, heads, length, head_width, like)
        self.right_up_to = right_up_to
        self.tokens_BM = torch.zeros(rows, length, dtype=torch.long, device=like.device)

    def again(self, tokens_BT: Tensor, counts_B: Tensor) -> tuple[Tensor, Tensor, Tensor] | None:
        """Notes new tokens; if a row has outgrown the length, forgets everything and says what to read again.

        Returns:
            All tokens and their segments, [B, M] each, and where in them the new tokens stand, [B, T]; or None.
        """
        places_BT = self.place(tokens_BT.shape[1])
        self.tokens_BM.scatter_(1, places_BT, tokens_BT)
        lengths_B = self.lengths_B + counts_B
        longest = int(lengths_B.max())
        if longest <= self.right_up_to:
            return None
        self.lengths_B, self.longest = torch.zeros_like(lengths_B), 0
        index_M = torch.arange(longest, device=lengths_B.device)
        segments_BM = (index_M < lengths_B[:, None]).long()
        return self.tokens_BM[:, :longest], segments_BM, places_BT.clamp(max=longest - 1)

    def keep(self, rows: list[int]) -> None:
        """The same, for the tokens too."""
        super().keep(rows)
        self.tokens_BM = self.tokens_BM[rows]

    def join(self, other: KeyValues) -> None:
        """The same, for the tokens too."""
        assert isinstance(other, Rereading)
        super().join(other)
        self.tokens_BM = _behind(self.tokens_BM, other.tokens_BM, 1)


class State:
    """Hidden state of every layer of a recurrent network; for an LSTM the cell state too."""

    def __init__(self, layers: int, rows: int, width: int, parts: int, like: Tensor) -> None:
        self.layers = [
            tuple(torch.zeros(rows, width, dtype=like.dtype, device=like.device) for _ in range(parts))
            for _ in range(layers)
        ]

    def keep(self, rows: list[int]) -> None:
        """Forgets all rows but these."""
        self.layers = [tuple(part_BD[rows] for part_BD in layer) for layer in self.layers]

    def join(self, other: State) -> None:
        """Takes in the rows of another memory, behind its own."""
        self.layers = _layers_behind(self.layers, other.layers)


class SourcedState:
    """A recurrent decoder's state, parts [B, D] of every layer, and what it looks at, [B, S, …] each."""

    def __init__(self, layers: list[tuple[Tensor, ...]], source: tuple[Tensor, ...]) -> None:
        self.layers, self.source = layers, source

    def keep(self, rows: list[int]) -> None:
        """Forgets all rows but these; a row may be named more than once."""
        self.layers = [tuple(part_BD[rows] for part_BD in layer) for layer in self.layers]
        self.source = tuple(tensor[rows] for tensor in self.source)

    def join(self, other: SourcedState) -> None:
        """Takes in the rows of another memory, behind its own; what is missing of a source is 0, or not there."""
        self.layers = _layers_behind(self.layers, other.layers)
        self.source = tuple(
            _behind(own, more, 1) for own, more in zip(self.source, other.source, strict=True)
        )


def _layers_behind(
    layers: list[tuple[Tensor, ...]], others: list[tuple[Tensor, ...]]
) -> list[tuple[Tensor, ...]]:
    return [
        tuple(torch.cat(parts) for parts in zip(layer, other, strict=True))
        for layer, other in zip(layers, others, strict=True)
    ]


def _behind(own: Tensor, more: Tensor, padded: int) -> Tensor:
    """Rows behind rows; the shorter of both is filled up with zeros along a dimension."""
    longest = max(own.shape[padded], more.shape[padded])

    def filled(tensor: Tensor) -> Tensor:
        shape = list(tensor.shape)
        shape[padded] = longest - shape[padded]
        return torch.cat((tensor, tensor.new_zeros(shape)), dim=padded)

    return torch.cat((filled(own), filled(more)))


Memory = KeyValues | State | SourcedState
