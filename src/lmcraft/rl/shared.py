"""Prompts read once: the answers of a group as branches of one row, instead of rows that all begin with the prompt.

    [prompt answer₁] [prompt answer₂] [prompt answer₃]   →   [prompt | answer₁ | answer₂ | answer₃]

1. Segments say who sees whom (lmcraft.layers.attention): a branch sees the prompt and itself, at the positions that it
   would have in a row of its own. So every hidden vector, and every gradient, is what it was.
2. The prompt's last token is where an answer's first one is chosen, so it belongs to each branch.
3. A long row costs attention between branches that do not see each other. Rows stay apart where that is dearer, and
   where a prompt of one token leaves nothing to share.

Legend: B rows, T positions, G prompts, W positions of a row with branches, P positions that are looked at, D width.
Proved by tests/unit/rl/test_shared.py.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..data.batch import IGNORE, Batch


def hidden(model: nn.Module, batch: Batch) -> Tensor:
    """Hidden vectors [B, T, D] wherever an answer's token is chosen; elsewhere they may be 0."""
    rows = _Rows(batch) if getattr(model, "branches", False) else None
    if rows is None or not rows.cheaper(model.config.width):
        return model(batch.tokens_BT, batch.segments_BT, **batch.reads)
    tokens_GW, segments_GW, here_P, there_P = (t.to(batch.tokens_BT.device) for t in rows.merged())
    merged_GWD = model(tokens_GW, segments_GW)
    flat = merged_GWD.new_zeros(batch.tokens_BT.numel(), merged_GWD.shape[-1])
    return flat.index_copy(0, here_P, merged_GWD.flatten(0, 1)[there_P]).view(*batch.tokens_BT.shape, -1)


class _Rows:
    """The rows of a batch by the prompt that they begin with."""

    def __init__(self, batch: Batch) -> None:
        targets_BT, self.shape = batch.targets_BT.cpu(), batch.tokens_BT.shape
        ends_B = (batch.segments_BT != 0).sum(dim=1).tolist()
        begins_B = (targets_BT != IGNORE).int().argmax(dim=1).tolist()
        # By prompt without its last token: of each answer the row, where it begins, and the tokens from there.
        self.groups: dict[tuple[int, ...], list[tuple[int, int, list[int]]]] = {}
        for b, (ids, begin, end) in enumerate(zip(batch.tokens_BT.tolist(), begins_B, ends_B, strict=True)):
            self.groups.setdefault(tuple(ids[:begin]), []).append((b, begin, ids[begin:end]))
        self.width = max(
            len(trunk) + sum(len(ids) for *_, ids in branches) for trunk, branches in self.groups.items()
        )

    def cheaper(self, width: int) -> bool:
        """Whether reading prompts once takes fewer products of a block: 24·W·D² of weights and 4·W²·D of scores."""

        def cost(rows: int, length: int) -> int:
            return rows * length * (6 * width + length)

        shares = len(self.groups) < self.shape[0] and () not in self.groups
        return shares and cost(len(self.groups), self.width) < cost(*self.shape)

    def merged(self) -> tuple[Tensor, ...]:
        """Tokens and segments [G, W], and the flat places of the answers' positions in the batch and here, [P] each."""
        tokens_GW = torch.zeros(len(self.groups), self.width, dtype=torch.long)
        segments_GW = torch.zeros_like(tokens_GW)
        here: list[int] = []
        there: list[int] = []
        for g, (trunk, branches) in enumerate(self.groups.items()):
            stop = len(trunk)
            tokens_GW[g, :stop], segments_GW[g, :stop] = torch.tensor(trunk, dtype=torch.long), 1
            for number, (b, begin, ids) in enumerate(branches):
                start, stop = stop, stop + len(ids)
                tokens_GW[g, start:stop], segments_GW[g, start:stop] = torch.tensor(ids), -1 - number
                here += range(b * self.shape[1] + begin, b * self.shape[1] + begin + len(ids))
                there += range(g * self.width + start, g * self.width + stop)
        return tokens_GW, segments_GW, torch.tensor(here), torch.tensor(there)
