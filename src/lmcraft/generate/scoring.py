"""Scores of answers by a reward model, and the gain and bias that bring the scores of chosen samples to mean 0, std 1.

1. A score is read at the last token of a row; padding, order and company of rows change nothing beyond rounding.
2. Rewards are fixed only up to a constant (and a unit): without a common scale, the weight of a KL penalty beside them
   means another thing with every reward model (Ziegler et al., arXiv 1909.08593, section 2.1).
3. A model that reads from left to right has at each position the score of the text up to there: `along` reads them all
   at once.
4. `raw` takes gain and bias off again: differences of raw scores are the logits of a preference.

Proved by tests/unit/generate/test_scoring.py.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from ..core.errors import UserError
from .engine import padded

BATCH = 32


@torch.inference_mode()
def scores(model: nn.Module, rows: Sequence[Sequence[int]], batch_size: int = BATCH) -> list[float]:
    """The score of each row of ids; without dropout.

    Raises:
        UserError: the model gives no scores, or a row is empty or longer than the model reads.
    """
    require(model)
    found = [0.0] * len(rows)
    for places, hidden_BTD in _read(model, model, rows, batch_size):
        for place, score in zip(places, model.head(hidden_BTD[:, 0])[:, 0].tolist(), strict=True):
            found[place] = score
    return found


@torch.inference_mode()
def along(
    model: nn.Module, rows: Sequence[Sequence[int]], last: Sequence[int], batch_size: int = BATCH
) -> list[list[float]]:
    """The scores of the texts that end at each of the `last` positions of each row of ids; without dropout.

    Raises:
        UserError: as of `scores`.
    """
    require(model)
    assert reads_on(model), "a text's vector is not that of its beginnings"
    found: list[list[float]] = [[] for _ in rows]
    for places, hidden_BTD in _read(model, model.body, rows, batch_size):
        for place, scores_T in zip(places, model.head(hidden_BTD)[..., 0], strict=True):
            end = len(rows[place])
            found[place] = scores_T[end - last[place] : end].tolist()
    return found


def reads_on(model: nn.Module) -> bool:
    """Whether the score of a text's beginning is there when the whole is read."""
    return model.config.pooling == "last" and bool(model.body.generates)


def _read(
    model: nn.Module, part: nn.Module, rows: Sequence[Sequence[int]], batch_size: int
) -> Iterator[tuple[list[int], Tensor]]:
    """What a part of the model makes of rows of similar length: which rows, and [B, T, D]."""
    if any(not row for row in rows):
        raise UserError("an empty text has no score", why="there is no last token to read it from")
    longest, most = max(map(len, rows), default=0), model.max_length
    if most is not None and longest > most:
        raise UserError(f"a text of {longest} tokens cannot be scored", why=f"the model reads at most {most}",
                        fix="shorten it at its beginning")  # fmt: skip
    device, was_training = next(model.parameters()).device, model.training
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    model.eval()
    try:
        for start in range(0, len(order), batch_size):
            places = order[start : start + batch_size]
            yield places, part(*padded([rows[i] for i in places], device))
    finally:
        model.train(was_training)


def normalise(model: nn.Module, rows: Sequence[Sequence[int]]) -> tuple[float, float]:
    """Sets the head's gain and bias so that these rows of ids have scores of mean 0 and std 1 (over all rows).

    Where all scores are equal there is no spread to measure, and only their mean becomes 0.

    Returns:
        mean and std before gain and bias.

    Raises:
        UserError: the model gives no scores, or there are no rows.
    """
    if not rows:
        raise UserError("there are no samples to measure scores on")
    found = [raw(model, score) for score in scores(model, rows)]
    mean, std = statistics.fmean(found), statistics.pstdev(found)
    gain = 1 / std if std > 1e-6 * max(1.0, abs(mean)) else 1.0
    model.config = model.config.model_copy(update={"gain": gain, "bias": -mean * gain})
    return mean, std


def raw(model: nn.Module, score: float) -> float:
    """A score without the head's gain and bias."""
    return (score - model.config.bias) / model.config.gain


def require(model: nn.Module) -> None:
    """Raises UserError if the model has no head for scores."""
    if getattr(model.config, "task", "words") != "score":
        raise UserError(
            "this model does not score answers", why=f"its head gives {getattr(model.config, 'task', 'words')}",
            fix="train one for it: lmcraft train reward base=MODEL data=FILE",
        )  # fmt: skip
