"""Where a token stands: positions from segments, and learned, sinusoidal and rotary encodings.

1. Positions restart at every document of a packed row, so a document sees the same positions alone and packed.
   A branch (a negative segment) goes on where its trunk ends, the document before it, as if it stood alone behind it.
2. Rotary encoding rotates the two halves of a head (the public Llama convention), in float32; tables are made once
   per forward for the positions at hand, so no maximum length is baked in (Su et al., arXiv 2104.09864).
3. Sinusoids follow Vaswani et al., arXiv 1706.03762, section 3.5: sine and cosine interleaved.

Legend: B rows, T positions, D width, H heads, C head width.
Proved by tests/unit/layers/test_positions.py and tests/parity/test_decoder.py.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .rope import Rope, frequencies


def positions(segments_BT: Tensor) -> Tensor:
    """Position of each token inside its own segment, from 0, or from the end of its trunk; int64 [B, T]."""
    index_T = torch.arange(segments_BT.shape[1], device=segments_BT.device)
    starts_BT = torch.ones_like(segments_BT, dtype=torch.bool)
    starts_BT[:, 1:] = segments_BT[:, 1:] != segments_BT[:, :-1]
    start_index_BT = torch.where(starts_BT, index_T, 0).cummax(dim=1).values
    found_BT = index_T - start_index_BT
    trunk_lengths_BT = found_BT.gather(1, trunk_ends(segments_BT)) + 1
    return found_BT + trunk_lengths_BT.where(segments_BT < 0, 0)


def trunk_ends(segments_BT: Tensor) -> Tensor:
    """Where the last token stands that is of no branch, at or before each token; int64 [B, T]."""
    index_T = torch.arange(segments_BT.shape[1], device=segments_BT.device)
    return index_T.where(segments_BT >= 0, 0).cummax(dim=1).values


def lengths(segments_BT: Tensor) -> Tensor:
    """Length of the stretch of equal segments that each token stands in; int64 [B, T]."""
    before_BT, behind_BT = positions(segments_BT), positions(segments_BT.flip(1)).flip(1)
    return before_BT + behind_BT + 1


def rotary_tables(
    positions_BT: Tensor,
    head_width: int,
    base: float,
    rope: Rope | None = None,
    lengths_BT: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Cosines and sines for `rotate`, float32 [B, 1, T, C].

    Args:
        rope: how the frequencies are stretched, if they are.
        lengths_BT: length of the text that each position belongs to; needed where `rope` is dynamic.
    """
    frequency = frequencies(head_width, base, rope, positions_BT if lengths_BT is None else lengths_BT)
    angle_BTC = positions_BT[..., None].float() * frequency
    angle_BTC = torch.cat((angle_BTC, angle_BTC), dim=-1)
    gain = 1.0 if rope is None else rope.gain
    return angle_BTC.cos()[:, None] * gain, angle_BTC.sin()[:, None] * gain


def rotate(x_BHTC: Tensor, tables: tuple[Tensor, Tensor]) -> Tensor:
    """Rotates queries or keys by their positions; keeps shape and dtype."""
    cos, sin = tables
    left, right = x_BHTC.chunk(2, dim=-1)
    turned = torch.cat((-right, left), dim=-1)
    return (x_BHTC * cos + turned * sin).to(x_BHTC.dtype)


def relative_buckets(distance: Tensor, buckets: int, longest: int, both_ways: bool) -> Tensor:
    """T5's bucket of each distance (key position − query position): exact when near, logarithmic up to `longest`.

    Raffel et al., arXiv 1910.10683, section 2.1. Shape is kept; int64 in 0 … buckets-1.
    """
    offset = torch.zeros_like(distance)
    if both_ways:
        buckets //= 2
        offset = (distance > 0) * buckets
        distance = distance.abs()
    else:
        distance = (-distance).clamp(min=0)
    exact = buckets // 2
    ratio = torch.log(distance.clamp(min=1).float() / exact) / math.log(longest / exact)
    far = (exact + (ratio * (buckets - exact)).long()).clamp(max=buckets - 1)
    return offset + torch.where(distance < exact, distance, far)


def sinusoids(positions_BT: Tensor, width: int) -> Tensor:
    """Sinusoidal encoding of each position, float32 [B, T, D]."""
    even = torch.arange(0, width, 2, device=positions_BT.device, dtype=torch.float32)
    angle = positions_BT[..., None].float() * torch.exp(even * (-math.log(10000.0) / width))
    return torch.stack((angle.sin(), angle.cos()), dim=-1).flatten(-2)[..., :width]
