"""One vector for a text: the mean of its positions, its first one, or its last one, for each document of a row.

1. Every position is given the vector of its own document, so it does not matter at which one a target stands, and
   packing and padding need no case of their own.
2. The first position stands for the text where every position sees all of it (BERT's [CLS]), the last one where each
   sees only what came before.

Legend: B rows, T positions, D width, G documents of a row.
Proved by tests/unit/layers/test_pooling.py.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .positions import positions


def pool(hidden_BTD: Tensor, segments_BT: Tensor | None, how: str) -> Tensor:
    """The vector of each position's document, [B, T, D]; `how` is mean, cls (the first position) or last."""
    if segments_BT is None:
        segments_BT = torch.ones(hidden_BTD.shape[:2], dtype=torch.long, device=hidden_BTD.device)
    if how == "mean":
        return _mean(hidden_BTD, segments_BT)
    index_T = torch.arange(segments_BT.shape[1], device=segments_BT.device)
    if how == "cls":
        place_BT = index_T - positions(segments_BT)
    else:
        place_BT = index_T + positions(segments_BT.flip(1)).flip(1)
    return hidden_BTD.gather(1, place_BT[..., None].expand_as(hidden_BTD))


def _mean(hidden_BTD: Tensor, segments_BT: Tensor) -> Tensor:
    rows, _, width = hidden_BTD.shape
    documents = int(segments_BT.max()) + 1
    place_BTD = segments_BT[..., None].expand_as(hidden_BTD)
    sums_BGD = hidden_BTD.new_zeros(rows, documents, width).scatter_add(1, place_BTD, hidden_BTD)
    ones_BT = torch.ones_like(segments_BT, dtype=hidden_BTD.dtype)
    counts_BG = hidden_BTD.new_zeros(rows, documents).scatter_add(1, segments_BT, ones_BT)
    means_BGD = sums_BGD / counts_BG.clamp(min=1)[..., None]
    return means_BGD.gather(1, place_BTD)
