"""Self-attention, causal or both ways, and attention to a source; grouped heads, a window, documents kept apart.

softmax(q·k · scale) · v over the positions a query may see; scale is 1/sqrt(C) (Vaswani et al., arXiv 1706.03762).

1. Who sees whom is decided in one place, `visible`, from segments alone, so padding and packing cannot disagree.
   A segment −n is a branch of the document before it: it sees that document and itself, but no other branch. So what
   several texts have in common is read once (lmcraft.rl.shared).
2. A row that holds one document needs no mask in causal order, which keeps padding at its end unseen.
3. Padding sees padding, and where a source has none, all of it; so no softmax runs over an empty set.
4. `record` is a list while somebody watches (lmcraft.inspect): each call then appends its weights.

Legend: B rows, T target positions, S source positions, M remembered positions, D width, H query heads,
K key/value heads, C head width.
Proved by tests/parity/test_decoder.py, tests/contract/test_models.py and tests/unit/layers/test_attention.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .memory import KeyValues
from .norm import RMSNorm
from .positions import positions, rotary_tables, rotate, trunk_ends


@dataclass(frozen=True)
class Sight:
    """What every layer of one forward pass shares: positions, who sees whom, rotary tables.

    `mask` is bool (True = may be seen) or float (added to the scores), broadcastable to [B, H, T, M]; None means plain
    causal order, or everything where `causal` is False.
    """

    positions_BT: Tensor
    mask: Tensor | None
    rotary: tuple[Tensor, Tensor] | None
    causal: bool = True


def sight(
    tokens_BT: Tensor, segments_BT: Tensor | None, memory: KeyValues | None, window: int | None,
    rotary: tuple | None, causal: bool = True,
) -> Sight:  # fmt: skip
    """Positions, mask and rotary tables of one forward pass.

    Args:
        segments_BT: 0 for padding, n for the nth document of the row, −n for a branch of the document before it; None
            means one document without padding.
        memory: what came before; its rows continue with these tokens.
        window: how many positions a query sees, itself included; None means all.
        rotary: for rotary positions, what else `rotary_tables` takes: head width, base, how they are stretched.
        causal: whether a position sees only itself and what stands before it.
    """
    if memory is not None:
        positions_BT = memory.place(tokens_BT.shape[1])
        fresh = memory.longest == 0 and (window is None or tokens_BT.shape[1] <= window)
        mask = None if fresh else _remembered(positions_BT, memory.longest + tokens_BT.shape[1], window)
    else:
        if segments_BT is None:
            segments_BT = torch.ones_like(tokens_BT)
        positions_BT = positions(segments_BT)
        mask = visible(segments_BT, window) if causal else visible_both_ways(segments_BT)
    tables = None if rotary is None else rotary_tables(positions_BT, *rotary)
    return Sight(positions_BT, mask, tables, causal)


def visible_both_ways(segments_BT: Tensor) -> Tensor | None:
    """Which positions of the same document may be attended to, bool [B, 1, T, T]; None when that is all of them."""
    if bool((segments_BT == 1).all()):
        return None
    return (segments_BT[:, :, None] == segments_BT[:, None, :])[:, None]


def visible_source(segments_BT: Tensor, source_segments_BS: Tensor) -> Tensor | None:
    """Which source positions each target position may attend to, bool [B, 1, T, S]; None when that is all of them."""
    if bool((segments_BT <= 1).all()) and bool((source_segments_BS == 1).all()):
        return None
    seen_BTS = segments_BT[:, :, None] == source_segments_BS[:, None, :]
    return (seen_BTS | ~seen_BTS.any(dim=-1, keepdim=True))[:, None]


def visible(segments_BT: Tensor, window: int | None) -> Tensor | None:
    """Which positions each position may attend to, bool [B, 1, T, T]; None when that is plain causal order."""
    length = segments_BT.shape[1]
    at_most_one = bool(((segments_BT == 0) | (segments_BT == 1)).all())
    one_document = at_most_one and bool((segments_BT[:, 1:] <= segments_BT[:, :-1]).all())
    if one_document and (window is None or length <= window):
        return None
    if not at_most_one and bool((segments_BT < 0).any()):
        return _visible_in_trees(segments_BT, window)
    index_T = torch.arange(length, device=segments_BT.device)
    distance_TT = index_T[:, None] - index_T
    seen_TT = distance_TT >= 0
    if window is not None:
        seen_TT = seen_TT & (distance_TT < window)
    return ((segments_BT[:, :, None] == segments_BT[:, None, :]) & seen_TT)[:, None]


def _visible_in_trees(segments_BT: Tensor, window: int | None) -> Tensor:
    """The same, where some segments are branches."""
    trunks_BT = segments_BT.gather(1, trunk_ends(segments_BT))
    same_BTT = segments_BT[:, :, None] == segments_BT[:, None, :]
    tree_BTT = trunks_BT[:, :, None] == trunks_BT[:, None, :]
    seen_BTT = (tree_BTT & (same_BTT | (segments_BT >= 0)[:, None, :])).tril()
    if window is not None:
        positions_BT = positions(segments_BT)
        seen_BTT &= positions_BT[:, :, None] - positions_BT[:, None, :] < window
    return seen_BTT[:, None]


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
        scale: factor on the scores; default 1/sqrt(head_width).
    """

    def __init__(
        self, width: int, heads: int, kv_heads: int, head_width: int, bias: bool, out_bias: bool,
        qk_norm_eps: float | None = None, scale: float | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.heads, self.kv_heads, self.head_width, self.scale = heads, kv_heads, head_width, scale
        self.q = nn.Linear(width, heads * head_width, bias=bias)
        self.k = nn.Linear(width, kv_heads * head_width, bias=bias)
        self.v = nn.Linear(width, kv_heads * head_width, bias=bias)
        self.out = nn.Linear(heads * head_width, width, bias=out_bias)
        self.q_norm = RMSNorm(head_width, qk_norm_eps) if qk_norm_eps is not None else None
        self.k_norm = RMSNorm(head_width, qk_norm_eps) if qk_norm_eps is not None else None
        self.record: list[Tensor] | None = None

    def forward(self, x_BTD: Tensor, sight: Sight, memory: KeyValues | None, layer: int) -> Tensor:
        q_BHTC = self._split(self.q(x_BTD), self.heads)
        k_BKTC, v_BKTC = self._keys_values(x_BTD)
        if self.q_norm is not None and self.k_norm is not None:
            q_BHTC, k_BKTC = self.q_norm(q_BHTC), self.k_norm(k_BKTC)
        if sight.rotary is not None:
            q_BHTC, k_BKTC = rotate(q_BHTC, sight.rotary), rotate(k_BKTC, sight.rotary)
        keys, values = k_BKTC, v_BKTC
        if memory is not None:
            keys, values = memory.write(layer, k_BKTC, v_BKTC, sight.positions_BT)
        return self._attend(q_BHTC, keys, values, sight.mask, sight.causal)

    def _keys_values(self, x_BTD: Tensor) -> tuple[Tensor, Tensor]:
        return self._split(self.k(x_BTD), self.kv_heads), self._split(self.v(x_BTD), self.kv_heads)

    def _split(self, projected: Tensor, heads: int) -> Tensor:
        """[B, T, heads·C] → [B, heads, T, C]."""
        return projected.unflatten(-1, (heads, self.head_width)).transpose(1, 2)

    def _attend(
        self, q_BHTC: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, causal: bool
    ) -> Tensor:
        k_BHMC, v_BHMC = self._for_each_head(keys), self._for_each_head(values)
        causal = causal and mask is None
        if self.record is not None:
            self.record.append(weights(q_BHTC, k_BHMC, mask, causal, self.scale))
        if mask is not None and mask.dtype != torch.bool:
            mask = mask.to(q_BHTC.dtype)
        y_BHTC = F.scaled_dot_product_attention(
            q_BHTC, k_BHMC, v_BHMC, attn_mask=mask, is_causal=causal, scale=self.scale
        )
        return self.out(y_BHTC.transpose(1, 2).flatten(2))

    def _for_each_head(self, shared_BKMC: Tensor) -> Tensor:
        """Keys or values of grouped heads, repeated for each query head: [B, H, M, C]."""
        if self.kv_heads == self.heads:
            return shared_BKMC
        return shared_BKMC.repeat_interleave(self.heads // self.kv_heads, dim=1)


class CrossAttention(Attention):
    """Attention from the target to the encoded source."""

    def read(self, source_BSD: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of an encoded source, [B, K, S, C] each; they serve every step of the target."""
        return self._keys_values(source_BSD)

    def forward(  # type: ignore[override]
        self, x_BTD: Tensor, source: tuple[Tensor, Tensor], mask: Tensor | None
    ) -> Tensor:
        return self._attend(self._split(self.q(x_BTD), self.heads), *source, mask, causal=False)


def weights(q_BHTC: Tensor, k_BHMC: Tensor, mask: Tensor | None, causal: bool, scale: float | None) -> Tensor:
    """The softmax that fused attention keeps to itself, float32 [B, H, T, M]; it carries no gradient."""
    q_BHTC, k_BHMC = q_BHTC.detach().float(), k_BHMC.detach().float()
    scores_BHTM = q_BHTC @ k_BHMC.transpose(-1, -2) * (q_BHTC.shape[-1] ** -0.5 if scale is None else scale)
    if causal:
        mask = torch.ones(scores_BHTM.shape[-2:], dtype=torch.bool, device=q_BHTC.device).tril()
    if mask is not None and mask.dtype == torch.bool:
        scores_BHTM = scores_BHTM.masked_fill(~mask, float("-inf"))
    elif mask is not None:
        scores_BHTM = scores_BHTM + mask
    return scores_BHTM.softmax(dim=-1)
