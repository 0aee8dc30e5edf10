"""Two answers to one prompt as a row: the first in `ids`, the second in `source`, one target where both begin.

1. One target a row, at the first token of the answer: so a batch counts pairs, and a loss is a sum over pairs. In both
   sides the answer goes from there to the end of the row's tokens; what is before it is the same in both.
2. What is too long for a row loses the beginning of its prompt, as much in both sides (bos stays); an answer is never
   cut, since its end is what is judged. A pair whose answers leave no room for a prompt is dropped. All is counted.
3. Rows of pairs are not packed.

Legend: B rows, T positions.
Proved by tests/unit/data/test_preferences.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..text.answers import encode_answers
from ..text.chat import ChatTemplate
from ..text.tokenizer import Tokenizer
from .batch import IGNORE, Batch
from .records import Message, Pair, Where
from .tokens import Document

CHUNK = 500
Overflow = Literal["truncate", "drop"]


@dataclass(frozen=True, slots=True)
class Example:
    """A prompt with two answers; `label` is the target's number, `signals` what a loss needs beside the tokens."""

    prompt: tuple[Message, ...]
    answer: tuple[Message, ...]
    other: tuple[Message, ...]
    signals: dict[str, float]
    where: Where
    label: int = 0


def example(pair: Pair) -> Example:
    """A preference: the better answer first; without a margin, it is 0."""
    signals = {"margin": pair.margin or 0.0, "weight": pair.weight}
    return Example(pair.prompt, pair.chosen, pair.rejected, signals, pair.where)


def documents(
    examples: Sequence[Example], tokenizer: Tokenizer, template: ChatTemplate | None, width: int, overflow: Overflow,
    counts: Counter,
) -> Iterator[Document]:  # fmt: skip
    """The rows of the examples; those that are too long are cut or dropped, and counted."""
    for begin in range(0, len(examples), CHUNK):
        part = examples[begin : begin + CHUNK]
        both = [(one.prompt, one.answer) for one in part] + [(one.prompt, one.other) for one in part]
        encoded = encode_answers(both, tokenizer, template)
        for one, left, right in zip(part, encoded[: len(part)], encoded[len(part) :], strict=True):
            start = left.start
            if min(len(left.ids), len(right.ids)) == start:
                counts["left out, an answer without tokens"] += 1
                continue
            cut = max(len(left.ids), len(right.ids)) - width
            kept = len(tokenizer.beginning) if left.ids[:1] == tokenizer.beginning else 0
            if cut > 0 and (overflow == "drop" or cut >= start - kept):
                counts["dropped, too long"] += 1
                continue
            if cut > 0:
                counts["prompts truncated at their beginning"] += 1
                start -= cut
            ids, source = (side.ids[:kept] + side.ids[kept + max(0, cut) :] for side in (left, right))
            labels = [IGNORE] * len(ids)
            labels[start] = one.label
            yield Document(ids, None, one.where, labels, source, one.signals)


def taking_part(batch: Batch) -> tuple[Tensor, Tensor]:
    """Which rows have a target, bool [B], and where their answers begin, int64 [B]."""
    trained_BT = batch.targets_BT != IGNORE
    return trained_BT.any(dim=1), trained_BT.int().argmax(dim=1)


def answer_masks(batch: Batch) -> tuple[Tensor, Tensor]:
    """Where the tokens of the first answers stand, and those of the second; bool [B, T], empty without a target."""
    assert batch.source is not None
    taking_B, start_B = taking_part(batch)

    def mask(segments_BT: Tensor) -> Tensor:
        place_T = torch.arange(segments_BT.shape[1], device=segments_BT.device)
        return (place_T >= start_B[:, None]) & (segments_BT != 0) & taking_B[:, None]

    return mask(batch.segments_BT), mask(batch.source.segments_BS)
