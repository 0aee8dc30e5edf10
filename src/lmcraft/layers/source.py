"""What a sequence-to-sequence model reads before it writes: the source ids of each row and where they belong.

Segment n of the target reads segment n of the source, so several pairs can share a row and padding (0) is never read.

Legend: B rows, S source positions.
Proved by tests/contract/test_models.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Source:
    """int64 source ids and segments (0 = padding, n = source of the nth target document), both [B, S]."""

    tokens_BS: Tensor
    segments_BS: Tensor

    @classmethod
    def of(cls, tokens_BS: Tensor) -> Source:
        """Sources without padding, one a row."""
        return cls(tokens_BS, torch.ones_like(tokens_BS))
