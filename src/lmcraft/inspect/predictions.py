"""What a model expects at every position: the likeliest tokens, and the rank and loss of the one that came.

loss_t = −log softmax(logits_{t−1})[token_t] in nats; bits are nats / ln 2; perplexity is exp of the mean loss.

1. The rank counts the tokens with a larger logit, plus one: 1 is what greedy decoding would have chosen.
2. Sums are in float64 over float32 log-probabilities, as in `Engine.score`.

Legend: T positions, V vocabulary.
Proved by tests/unit/inspect/test_look.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Guess:
    """A token that the model thought possible."""

    id: int
    probability: float


@dataclass(frozen=True)
class Prediction:
    """The distribution of one token: likeliest first, its entropy in nats, and what is known of the actual token.

    `actual`, `probability`, `rank` and `loss` (nats) are None where no token follows.
    """

    guesses: list[Guess]
    entropy: float
    actual: int | None = None
    probability: float | None = None
    rank: int | None = None
    loss: float | None = None

    @property
    def bits(self) -> float | None:
        """The loss in bits."""
        return None if self.loss is None else self.loss / math.log(2)


def predictions(logits_TV: Tensor, actual: Sequence[int | None], top: int) -> list[Prediction]:
    """One prediction for each row of logits; `actual` has the token that came, or None."""
    logprobs_TV = torch.log_softmax(logits_TV.float(), dim=-1)
    best = logprobs_TV.topk(min(top, logprobs_TV.shape[-1]), dim=-1)
    found = []
    for t, token in enumerate(actual):
        guesses = [
            Guess(number, math.exp(value))
            for number, value in zip(best.indices[t].tolist(), best.values[t].tolist(), strict=True)
        ]
        row_V = logprobs_TV[t]
        entropy = float(-(row_V.exp() * row_V.clamp(min=-1e4)).sum())
        if token is None:
            found.append(Prediction(guesses, entropy))
            continue
        value = float(row_V[token])
        rank = int((row_V > row_V[token]).sum()) + 1
        found.append(Prediction(guesses, entropy, token, math.exp(value), rank, -value))
    return found


@dataclass(frozen=True)
class Total:
    """Losses of many tokens together."""

    tokens: int
    nats: float

    @property
    def mean(self) -> float | None:
        """Nats per token."""
        return self.nats / self.tokens if self.tokens else None

    @property
    def perplexity(self) -> float | None:
        """exp(mean); infinity where that is too large for a number."""
        if self.mean is None:
            return None
        return math.exp(self.mean) if self.mean < 700 else math.inf


def total(listed: Sequence[Prediction | None]) -> Total:
    """The sum over all predictions that have a loss."""
    losses = [one.loss for one in listed if one is not None and one.loss is not None]
    return Total(len(losses), math.fsum(losses))
