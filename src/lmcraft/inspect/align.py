"""The alignment of target and source: which source tokens the model looked at when it wrote each target token.

Row t of the plot is the attention with which the model predicted target token t (Bahdanau et al. 2015, figure 3).

1. A Transformer has one such table for each head of each layer; the mean over the heads of the last layer comes first,
   and every other can be chosen. Rows sum to 1.
2. Pieces can be joined to words: the mean over the pieces of a target word, the sum over those of a source word; so
   rows still sum to 1.

Legend: H heads, T target positions, S source positions.
Proved by tests/unit/inspect/test_align.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .look import Inspection, rows_of
from .pieces import words
from .record import CROSS


@dataclass(frozen=True)
class Choice:
    """One table that can be shown: its name, and the weights [T, S]."""

    name: str
    weights_TS: Tensor


@dataclass(frozen=True)
class Alignment:
    """Tables with the same axes; the first is what is shown at first."""

    rows: list[str]
    columns: list[str]
    choices: list[Choice]


def alignment(seen: Inspection) -> Alignment | None:
    """The alignment of tokens, or None for a model that looks at no source."""
    maps = rows_of(seen.maps, CROSS)
    if not maps:
        return None
    rows = [piece.label for piece in seen.target[1 : seen.read + 1]]
    tables = [one.weights_HTM[:, : len(rows)] for one in maps]
    choices = []
    if seen.gradient:
        choices.append(
            Choice("gradient", tables[0][0] / tables[0][0].sum(dim=-1, keepdim=True).clamp(min=1e-30))
        )
    else:
        choices += _choices(tables)
    return Alignment(rows, [piece.label for piece in seen.source], choices)


def _choices(tables: Sequence[Tensor]) -> list[Choice]:
    """Means first, from the last layer down, then every head."""
    several = any(len(table) > 1 for table in tables)
    found = []
    if several:
        for layer in reversed(range(len(tables))):
            found.append(Choice(f"layer {layer + 1}, mean of its heads", tables[layer].mean(dim=0)))
        if len(tables) > 1:
            found.append(Choice("mean of all layers and heads", torch.cat(list(tables)).mean(dim=0)))
    for layer in reversed(range(len(tables))):
        for head, weights_TS in enumerate(tables[layer]):
            found.append(
                Choice(f"layer {layer + 1}, head {head + 1}" if several else f"layer {layer + 1}", weights_TS)
            )
    return found


def of_words(seen: Inspection, found: Alignment, names: tuple[list[str], list[str]]) -> Alignment | None:
    """The same with pieces joined to words; None where every word is one piece.

    Args:
        names: the labels of the words of the target and of the source.
    """
    written = words(seen.target[1 : seen.read + 1])
    read = words(seen.source)
    if len(written) == len(found.rows) and len(read) == len(found.columns):
        return None
    choices = [Choice(one.name, joined(one.weights_TS, written, read)) for one in found.choices]
    return Alignment(*names, choices)


def joined(weights_TS: Tensor, rows: Sequence[Sequence[int]], columns: Sequence[Sequence[int]]) -> Tensor:
    """The mean over each group of rows of the sum over each group of columns."""
    summed = torch.stack([weights_TS[:, list(group)].sum(dim=1) for group in columns], dim=1)
    return torch.stack([summed[list(group)].mean(dim=0) for group in rows])
