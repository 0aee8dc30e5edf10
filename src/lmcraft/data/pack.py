"""Best-fit packing: documents laid into rows of one width so that little is padding and nothing is lost.

1. A document of n ids gives n-1 inputs; the target of an input is the id after it. A document longer than a row is
   cut into pieces whose targets still cross the cut, so every id but the first is predicted exactly once.
2. Best-fit decreasing: each piece goes into the fullest row that still holds it. Rows by free space stand in a bit
   mask, so finding that row is one operation (Ding et al., arXiv 2404.10830, use the same rule).
3. The result depends on the lengths alone.

Proved by tests/unit/data/test_pack.py.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Piece(NamedTuple):
    """Inputs `start … stop-1` of a document; their targets are the ids one further on."""

    document: int
    start: int
    stop: int


def pieces(lengths: np.ndarray, width: int) -> list[Piece]:
    """Every document's inputs, cut at `width`; `lengths` counts ids."""
    cut = []
    for document, length in enumerate(lengths.tolist()):
        for start in range(0, length - 1, width):
            cut.append(Piece(document, start, min(start + width, length - 1)))
    return cut


def best_fit(parts: list[Piece], width: int) -> list[list[Piece]]:
    """Rows of pieces, each row at most `width` inputs long."""
    order = sorted(range(len(parts)), key=lambda i: (parts[i].start - parts[i].stop, i))
    rows: list[list[Piece]] = []
    by_space: list[list[int]] = [[] for _ in range(width + 1)]
    spaces = 0
    for index in order:
        piece = parts[index]
        size = piece.stop - piece.start
        fitting = spaces >> size
        if fitting:
            space = size + (fitting & -fitting).bit_length() - 1
            row = by_space[space].pop()
            if not by_space[space]:
                spaces &= ~(1 << space)
        else:
            space, row = width, len(rows)
            rows.append([])
        rows[row].append(piece)
        by_space[space - size].append(row)
        spaces |= 1 << (space - size)
    return rows


def one_a_row(parts: list[Piece]) -> list[list[Piece]]:
    """No packing: every piece alone."""
    return [[piece] for piece in parts]
