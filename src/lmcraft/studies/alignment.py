"""Reads off attention which source token each target token comes from, and compares it with the truth.

    error = share of target tokens whose most attended source token is not one that they stand for
    mass  = attention that lies on the source tokens that they stand for, on average

1. The model reads the reference (teacher forcing), so each of its tokens has a truth. The weights of position t are
   those with which target token t is predicted (Bahdanau et al. 2015, figure 3).
2. With one link for each target token, as here, the error is the alignment error rate of Och and Ney (2003).
3. Heads are averaged; of several layers the one is taken that errs least on other lines than the measured ones.

Legend: H heads, T target positions, S source positions.
Proved by tests/unit/studies/test_alignment.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..data.number_words import Link
from ..data.records import Parallel
from ..generate.language_model import LanguageModel
from ..layers.additive import AdditiveAttention
from ..layers.attention import CrossAttention
from ..layers.source import Source
from ..text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Aligned:
    """A pair and which characters of its source the parts of its target stand for."""

    pair: Parallel
    links: Sequence[Link]


@dataclass(frozen=True)
class Score:
    """How well attention points to what each target token stands for, over some lines."""

    layer: int
    error: float
    mass: float
    tokens: int


def score(lm: LanguageModel, lines: Sequence[Aligned]) -> Score | None:
    """The alignment of a model, its layer chosen on the first half of the lines, measured on the second.

    None for a model that does not attend to its source.
    """
    half = len(lines) // 2
    chosen = _errors(lm, lines[:half])
    if not chosen:
        return None
    layer = min(range(len(chosen)), key=lambda number: chosen[number][0])
    error, mass, tokens = _errors(lm, lines[half:])[layer]
    return Score(layer, error, mass, tokens)


def _errors(lm: LanguageModel, lines: Sequence[Aligned]) -> list[tuple[float, float, int]]:
    """Error, mass and counted tokens of each layer."""
    sums: list[list[float]] = []
    for line in lines:
        true = truth(lm.tokenizer, line)
        for layer, weights_TS in enumerate(attention(lm, line.pair)):
            if layer == len(sums):
                sums.append([0.0, 0.0, 0.0])
            for target, sources in true.items():
                sums[layer][0] += int(weights_TS[target].argmax()) not in sources
                sums[layer][1] += float(weights_TS[target, sorted(sources)].sum())
                sums[layer][2] += 1
    return [(wrong / max(1, count), mass / max(1, count), int(count)) for wrong, mass, count in sums]


@torch.inference_mode()
def attention(lm: LanguageModel, pair: Parallel) -> list[Tensor]:
    """The weights [T, S] of each layer that reads the source: a row for each target token and eos."""
    modules = [m for m in lm.model.modules() if isinstance(m, AdditiveAttention | CrossAttention)]
    if not modules:
        return []
    source_BS, target_BT = (torch.tensor([ids]) for ids in (lm.ids(pair.source), [
        lm.start_id, *lm.tokenizer.encode_plain(pair.target)
    ]))  # fmt: skip
    lm.model.eval()
    records: list[list[Tensor]] = []
    for module in modules:
        module.record = []
        records.append(module.record)
    try:
        lm.model(target_BT, source=Source.of(source_BS))
    finally:
        for module in modules:
            module.record = None
    return [record[0][0].mean(dim=0) for record in records]


def truth(tokenizer: Tokenizer, line: Aligned) -> dict[int, set[int]]:
    """The source tokens that each target token stands for; tokens that stand for nothing are left out."""
    source, target = (_spans(tokenizer, text) for text in (line.pair.source, line.pair.target))
    found: dict[int, set[int]] = {}
    for link in line.links:
        left, right = (
            _in_bytes(text, span)
            for text, span in zip((line.pair.source, line.pair.target), link, strict=True)
        )
        for token in _touched(target, right):
            found.setdefault(token, set()).update(_touched(source, left))
    return found


def _spans(tokenizer: Tokenizer, text: str) -> list[tuple[int, int]]:
    """First byte and the one after the last of each token."""
    spans, place = [], 0
    for number in tokenizer.encode_plain(text):
        size = len(tokenizer.token_bytes(number))
        spans.append((place, place + size))
        place += size
    return spans


def _in_bytes(text: str, span: tuple[int, int]) -> tuple[int, int]:
    start, stop = (len(text[:place].encode()) for place in span)
    return start, stop


def _touched(spans: list[tuple[int, int]], part: tuple[int, int]) -> list[int]:
    return [token for token, (start, stop) in enumerate(spans) if start < part[1] and part[0] < stop]
