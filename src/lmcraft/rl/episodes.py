"""Episodes: prompts with the answers that a policy gave, as the rows of a batch.

A row holds prompt and answer without its last token; the targets are the answer's tokens, so the position of a target
is the state in which that token was chosen. The end-of-sequence token is a choice like the others and is trained.

Legend: B rows, T positions, S source positions.
Proved by tests/unit/rl/test_experience.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..data.batch import IGNORE, Batch
from ..generate.engine import Completion, padded
from ..layers.source import Source

WIDTH_STEP = 4  # widths are rounded up, so that there are few sizes


@dataclass(frozen=True)
class Prompts:
    """What was asked: ids, for some models sources beside them, and where each came from."""

    ids: list[list[int]]
    sources: list[list[int]] | None
    where: list[str]

    @classmethod
    def of(cls, batch: Batch, times: int) -> Prompts:
        """Each prompt of a batch, `times` times in succession."""
        ids = _rows(batch.tokens_BT, batch.segments_BT, times)
        sources = batch.source and _rows(batch.source.tokens_BS, batch.source.segments_BS, times)
        return cls(ids, sources, [name for name in batch.rows for _ in range(times)])


def _rows(tokens_BT: Tensor, segments_BT: Tensor, times: int) -> list[list[int]]:
    rows = [
        tokens_T[segments_T != 0].tolist()
        for tokens_T, segments_T in zip(tokens_BT, segments_BT, strict=True)
    ]
    return [row for row in rows for _ in range(times)]


def batch(prompts: Prompts, answers: Sequence[Completion]) -> Batch:
    """The rows to train on."""
    whole = [[*ids, *answer.tokens] for ids, answer in zip(prompts.ids, answers, strict=True)]
    width = -(-(max(map(len, whole)) - 1) // WIDTH_STEP) * WIDTH_STEP
    tokens_BT = torch.zeros(len(whole), width, dtype=torch.long)
    targets_BT = torch.full_like(tokens_BT, IGNORE)
    segments_BT = torch.zeros_like(tokens_BT)
    for b, (ids, prompt) in enumerate(zip(whole, prompts.ids, strict=True)):
        tokens_BT[b, : len(ids) - 1] = torch.tensor(ids[:-1])
        segments_BT[b, : len(ids) - 1] = 1
        targets_BT[b, len(prompt) - 1 : len(ids) - 1] = torch.tensor(ids[len(prompt) :])
    source = None if prompts.sources is None else Source(*padded(prompts.sources, "cpu"))
    return Batch(tokens_BT, targets_BT, segments_BT, prompts.where, source)


def chosen(rows: Batch, index: Tensor) -> Batch:
    """Some rows of a batch, with what belongs to them."""
    source = rows.source
    if source is not None:
        source = Source(source.tokens_BS[index], source.segments_BS[index])
    return replace(
        rows, tokens_BT=rows.tokens_BT[index], targets_BT=rows.targets_BT[index],
        segments_BT=rows.segments_BT[index], rows=[rows.rows[i] for i in index.tolist()], source=source,
        signals={name: numbers[index] for name, numbers in rows.signals.items()},
    )  # fmt: skip


def trimmed(rows: Batch) -> Batch:
    """The batch without the padding that all of its rows share."""
    used_T = (rows.segments_BT != 0).any(dim=0)
    width = -(-int(used_T.sum()) // WIDTH_STEP) * WIDTH_STEP
    if width >= len(used_T):
        return rows

    def cut(numbers: Tensor) -> Tensor:
        return numbers[:, :width] if numbers.ndim > 1 else numbers

    return replace(
        rows, tokens_BT=cut(rows.tokens_BT), targets_BT=cut(rows.targets_BT), segments_BT=cut(rows.segments_BT),
        signals={name: cut(numbers) for name, numbers in rows.signals.items()},
    )  # fmt: skip


def placed(numbers: Sequence[Sequence[float]], targets_BT: Tensor) -> Tensor:
    """Numbers of each row at its targets, one each, and 0 elsewhere: float32 [B, T]."""
    placed_BT = torch.zeros(targets_BT.shape)
    placed_BT[targets_BT != IGNORE] = torch.tensor([number for row in numbers for number in row])
    return placed_BT


def at_last(values_B: Tensor, targets_BT: Tensor) -> Tensor:
    """Each row's number at its last target, 0 elsewhere: [B, T] in the type of the numbers."""
    mask_BT = targets_BT != IGNORE
    last_B = targets_BT.shape[1] - 1 - mask_BT.flip(1).int().argmax(dim=1)
    placed_BT = torch.zeros(targets_BT.shape, dtype=values_B.dtype)
    placed_BT[torch.arange(len(last_B)), last_B] = values_B
    return placed_BT * mask_BT.any(dim=1, keepdim=True)
