"""Causal self-attention with grouped heads, a sliding window, and packed documents kept apart.

softmax(q·k / sqrt(C)) · v over the positions a query may see (Vaswani et al., arXiv 1706.03762).

1. Who sees whom is decided in one place, `visible`, from segments alone, so padding and packing cannot disagree.
2. A row that holds one document needs no mask: causal order keeps padding at its end unseen.
3. Padding sees padding, so no softmax runs over an empty set.

Legend: B rows, T target positions, M remembered positions, D width, H query heads, K key/value heads, C head width.
Proved by tests/parity/test_decoder.py, tests/contract/test_models.py and tests/unit/layers/test_attention.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .memory import KeyValues
from .norm import RMSNorm
from .positions import positions, rotary_tables, rotate


@dataclass(frozen=True)
class Sight:
    """What every layer of one forward pass shares: positions, the mask (None = plain causal), rotary tables."""

    positions_BT: Tensor
    mask_B1TM: Tensor | None
    rotary: tuple[Tensor, Tensor] | None


def sight(
    tokens_BT: Tensor, segments_BT: Tensor | None, memory: KeyValues | None, window: int | None,
    rotary: tuple[int, float] | None,
) -> Sight:  # fmt: skip
    """Positions, mask and rotary tables of one forward pass.

    Args:
        segments_BT: 0 for padding, n for the nth document of the row; None means one document without padding.
        memory: what came before; its rows continue with these tokens.
        window: how many positions a query sees, itself included; None means all.
        rotary: head width and base, for rotary positions.
    """
    if memory is not None:
        positions_BT = memory.place(tokens_BT.shape[1])
        fresh = memory.longest == 0 and (window is None or tokens_BT.shape[1] <= window)
        mask = None if fresh else _remembered(positions_BT, memory.longest + tokens_BT.shape[1], window)
    else:
        if segments_BT is None:
            segments_BT = torch.ones_like(tokens_BT)
        positions_BT = positions(segments_BT)
        mask = visible(segments_BT, window)
    tables = None if rotary is None else rotary_tables(positions_BT, *rotary)
    return Sight(positions_BT, mask, tables)


def visible(segments_BT: Tensor, window: int | None) -> Tensor | None:
    """Which positions each position may attend to, bool [B, 1, T, T]; None when that is plain causal order."""
    length = segments_BT.shape[1]
    one_document = bool((segments_BT <= 1).all()) and bool((segments_BT[:, 1:] <= segments_BT[:, :-1]).all())
    if one_document and (window is None or length <= window):
        return None
    index_T = torch.arange(length, device=segments_BT.device)
    distance_TT = index_T[:, None] - index_T
    seen_TT = distance_TT >= 0
    if window is not None:
        seen_TT = seen_TT & (distance_TT < window)
    return ((segments_BT[:, :, None] == segments_BT[:, None, :]) & seen_TT)[:, None]


def _remembered(positions_BT: Tensor, slots: int, window: int | None) -> Tensor:
    """Which memory slots each new position may attend to, bool [B, 1, T, M]."""
    distance_BTM = positions_BT[..., None] - torch.arange(slots, device=positions_BT.device)
    seen_BTM = distance_BTM >= 0
    if window is not None:
        seen_BTM = seen_BTM & (distance_BTM < window)
    return seen_BTM[:, None]


class Attention(nn.Module):
    """Projections to queries, keys and values, attention, and the projection back.

    Args:
        bias: biases of the query, key and value projections; out_bias: of the way back.
        qk_norm_eps: if given, queries and keys are RMS-normalised per head before rotation (Qwen3).
    """

    def __init__(
        self, width: int, heads: int, kv_heads: int, head_width: int, bias: bool, out_bias: bool,
        qk_norm_eps: float | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.heads, self.kv_heads, self.head_width = heads, kv_heads, head_width
        self.q = nn.Linear(width, heads * head_width, bias=bias)
        self.k = nn.Linear(width, kv_heads * head_width, bias=bias)
        self.v = nn.Linear(width, kv_heads * head_width, bias=bias)
        self.out = nn.Linear(heads * head_width, width, bias=out_bias)
        self.q_norm = RMSNorm(head_width, qk_norm_eps) if qk_norm_eps is not None else None
        self.k_norm = RMSNorm(head_width, qk_norm_eps) if qk_norm_eps is not None else None

    def forward(self, x_BTD: Tensor, sight: Sight, memory: KeyValues | None, layer: int) -> Tensor:
        B, T, _ = x_BTD.shape
        q_BHTC = self.q(x_BTD).view(B, T, self.heads, self.head_width).transpose(1, 2)
        k_BKTC = self.k(x_BTD).view(B, T, self.kv_heads, self.head_width).transpose(1, 2)
        v_BKTC = self.v(x_BTD).view(B, T, self.kv_heads, self.head_width).transpose(1, 2)
        if self.q_norm is not None and self.k_norm is not None:
            q_BHTC, k_BKTC = self.q_norm(q_BHTC), self.k_norm(k_BKTC)
        if sight.rotary is not None:
            q_BHTC, k_BKTC = rotate(q_BHTC, sight.rotary), rotate(k_BKTC, sight.rotary)
        keys, values = k_BKTC, v_BKTC
        if memory is not None:
            keys, values = memory.write(layer, k_BKTC, v_BKTC, sight.positions_BT)
        y_BHTC = F.scaled_dot_product_attention(
            q_BHTC,
            self._for_each_head(keys),
            self._for_each_head(values),
            attn_mask=sight.mask_B1TM,
            is_causal=sight.mask_B1TM is None,
        )
        return self.out(y_BHTC.transpose(1, 2).reshape(B, T, -1))

    def _for_each_head(self, shared_BKMC: Tensor) -> Tensor:
        """Keys or values of grouped heads, repeated for each query head: [B, H, M, C]."""
        if self.kv_heads == self.heads:
            return shared_BKMC
        return shared_BKMC.repeat_interleave(self.heads // self.kv_heads, dim=1)
