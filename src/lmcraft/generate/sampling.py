"""Choosing the next token: greedy, temperature, top-k, top-p, min-p, repetition penalty; seeded per request.

1. Order: repetition penalty, temperature, top-k, top-p, min-p, then a draw. Temperature 0 is greedy.
2. One uniform number a step, from a counter-based generator keyed by the request's seed, is turned into a token by the
   cumulative distribution in float64. So a request draws the same numbers alone and in any batch. Where nothing cuts
   the distribution, tokens are not sorted for that, and all rows of a batch are drawn at once.
3. The reported log-probability is that of the unmodified distribution, so it equals what `score` gives.

Repetition penalty: Keskar et al., arXiv 1909.05858. Top-p: Holtzman et al., arXiv 1904.09751. Min-p: Nguyen et al.,
arXiv 2407.01082.

Legend: V vocabulary.
Proved by tests/unit/generate/test_sampling.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from ..core.config import Strict


class Sampling(Strict):
    """How to choose tokens and when to stop."""

    temperature: float = Field(1.0, ge=0, le=100)
    top_k: int | None = Field(None, gt=0)
    top_p: float | None = Field(None, gt=0, le=1)
    min_p: float | None = Field(None, ge=0, le=1)
    repetition_penalty: float = Field(1.0, gt=0, le=100)
    max_new_tokens: int = Field(128, gt=0, le=1_000_000)
    stop: tuple[str, ...] = ()
    seed: int = Field(0, ge=0, lt=2**64)

    @property
    def plain(self) -> bool:
        """Whether tokens are drawn from the whole distribution, only made hotter or colder."""
        cut = any(value is not None for value in (self.top_k, self.top_p, self.min_p))
        return self.temperature > 0 and self.repetition_penalty == 1.0 and not cut

    @model_validator(mode="after")
    def _finite(self) -> Self:
        if not np.isfinite(self.temperature) or not np.isfinite(self.repetition_penalty):
            raise ValueError("temperature and repetition_penalty must be finite")
        return self


def generator(seed: int) -> np.random.Generator:
    """The random numbers of one request."""
    return np.random.Generator(np.random.Philox(key=seed))


def choose(logits_V: Tensor, seen: set[int], sampling: Sampling, draw: np.random.Generator) -> int:
    """The next token for one row; `seen` are the ids of prompt and answer so far."""
    logits_V = logits_V.double()
    if sampling.repetition_penalty != 1.0 and seen:
        index = torch.tensor(sorted(seen))
        old = logits_V[index]
        logits_V = logits_V.clone()
        logits_V[index] = torch.where(
            old > 0, old / sampling.repetition_penalty, old * sampling.repetition_penalty
        )
    if sampling.temperature == 0:
        return int(logits_V.argmax())
    if sampling.plain:
        return _drawn(logits_V[None], [sampling], [draw])[0]
    order_V = torch.argsort(logits_V, descending=True, stable=True)
    sorted_V = logits_V[order_V]
    # the difference first: dividing by a tiny temperature would overflow, and infinity minus infinity is no number
    probabilities_V = torch.softmax((sorted_V - sorted_V[0]) / sampling.temperature, dim=-1)
    kept = _kept(probabilities_V, sampling)
    cumulative_V = probabilities_V[:kept].cumsum(dim=-1)
    place = int(torch.searchsorted(cumulative_V, draw.random() * float(cumulative_V[-1]), right=True))
    return int(order_V[min(place, kept - 1)])


def choose_each(
    logits_BV: Tensor,
    seen: Sequence[set[int]],
    samplings: Sequence[Sampling],
    draws: Sequence[np.random.Generator],
) -> list[int]:
    """The next token of each row: as `choose` gives it, for the plain ones among them all at once."""
    chosen = [0] * len(samplings)
    plain = [row for row, sampling in enumerate(samplings) if sampling.plain]
    if plain:
        drawn = _drawn(logits_BV[plain], [samplings[row] for row in plain], [draws[row] for row in plain])
        for row, token in zip(plain, drawn, strict=True):
            chosen[row] = token
    for row, sampling in enumerate(samplings):
        if not sampling.plain:
            chosen[row] = choose(logits_BV[row], seen[row], sampling, draws[row])
    return chosen


def _drawn(
    logits_BV: Tensor, samplings: Sequence[Sampling], draws: Sequence[np.random.Generator]
) -> list[int]:
    """The tokens at which the cumulative probabilities, in the order of the vocabulary, pass numbers from [0, 1)."""
    temperatures_B1 = torch.tensor([[sampling.temperature] for sampling in samplings], dtype=torch.float64)
    numbers_B1 = torch.tensor([[draw.random()] for draw in draws], dtype=torch.float64)
    logits_BV = logits_BV.double()
    difference_BV = logits_BV - logits_BV.amax(dim=1, keepdim=True)
    cumulative_BV = difference_BV.div_(temperatures_B1).exp_().cumsum(dim=1)
    places_B1 = torch.searchsorted(cumulative_BV, numbers_B1 * cumulative_BV[:, -1:], right=True)
    return places_B1[:, 0].clamp(max=logits_BV.shape[1] - 1).tolist()


def _kept(probabilities_V: Tensor, sampling: Sampling) -> int:
    """How many of the sorted probabilities remain; at least one."""
    kept = len(probabilities_V)
    if sampling.top_k is not None:
        kept = min(kept, sampling.top_k)
    if sampling.top_p is not None:
        total = probabilities_V[:kept].sum()
        before_V = probabilities_V[:kept].cumsum(dim=-1) - probabilities_V[:kept]
        kept = int((before_V < sampling.top_p * total).sum())
    if sampling.min_p is not None:
        kept = min(kept, int((probabilities_V >= sampling.min_p * probabilities_V[0]).sum()))
    return max(1, kept)
