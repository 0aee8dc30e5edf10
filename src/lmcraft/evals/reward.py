"""Reward models on preferences they have not seen: accuracy beside its ceiling, calibration, and what length does.

    p = σ(|r(chosen) − r(rejected)|)    ECE = Σ over bins of p: share of the pairs · |mean p − share that is right|

1. Accuracy is how often the better answer scores higher; equal scores count half; a pair counts its weight.
2. Raters disagree, so no model gets all of them right: `ceiling` is the mean of max(P, 1 − P), where P is the chance
   that a rater prefers one answer. It is known where pairs were judged several times, from the shares of their raters
   (a little too high if they are few; who is undecided disagrees). Else it is left out.
3. Calibration is that of the score without gain and bias, whose differences are logits of a preference (Guo et al.,
   arXiv 1706.04599; bins of equal width from 1/2 to 1).
4. `length_correlation` is Pearson's, between an answer's score and its number of tokens; it does not exist where all
   lengths or scores are equal, and is then left out.

Legend: N pairs, B bins.
Proved by tests/unit/evals/test_reward.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from pydantic import Field

from ..core.config import Strict
from ..core.errors import UserError
from ..data.records import Message, Pair
from ..generate.language_model import LanguageModel
from ..generate.scoring import raw, require
from ..text.answers import encode_answers
from .evaluation import Result


class Config(Strict):
    """How finely calibration is looked at."""

    kind: Literal["reward"] = "reward"
    bins: int = Field(10, gt=0, le=100, description="of the probability of a preference, from 1/2 to 1")


def run(lm: LanguageModel, records: Sequence[Pair], config: Config) -> Result:
    """Scores both answers of every pair; one sample a pair."""
    require(lm.model)
    for record in records:
        if not isinstance(record, Pair):
            raise UserError("this evaluation needs preferences", where=str(record.where),
                            fix="give rows with `prompt`, `chosen` and `rejected`")  # fmt: skip
    if not records:
        raise UserError("there are no preferences to measure")
    both = [(r.prompt, r.chosen) for r in records] + [(r.prompt, r.rejected) for r in records]
    encoded = encode_answers(both, lm.tokenizer, lm.template)
    scores = np.array(lm.rewards([one.ids for one in encoded]))
    lengths = np.array([len(one.ids) - one.start for one in encoded])
    count = len(records)
    gap_N = np.array(
        [raw(lm.model, a) - raw(lm.model, b) for a, b in zip(scores[:count], scores[count:], strict=True)]
    )
    right_N, weight_N = (gap_N > 0) + 0.5 * (gap_N == 0), np.array([record.weight for record in records])
    sure_N = 1 / (1 + np.exp(-np.abs(gap_N)))
    rows, error = calibration(sure_N, right_N, weight_N, config.bins)
    metrics = {"accuracy": float(np.average(right_N, weights=weight_N)), "ece": error,
               "score_gap": float(np.average(gap_N, weights=weight_N))}  # fmt: skip
    settings: dict[str, Any] = {"pairs": count, "bins": config.bins}
    best, how = ceiling(records)
    settings["ceiling"] = how
    if best is not None:
        metrics["ceiling"] = best
    if scores.std() > 0 and lengths.std() > 0:
        metrics["length_correlation"] = float(np.corrcoef(scores, lengths)[0, 1])
    samples = [
        {"where": str(record.where), "chosen": float(scores[n]), "rejected": float(scores[count + n]),
         "chosen_tokens": int(lengths[n]), "rejected_tokens": int(lengths[count + n]), "right": float(right_N[n])}
        for n, record in enumerate(records)
    ]  # fmt: skip
    table = {"columns": ["from", "to", "pairs", "mean probability", "right"], "rows": rows}
    return Result("reward", metrics, settings, samples, {"reliability": table})


def calibration(
    sure_N: np.ndarray, right_N: np.ndarray, weight_N: np.ndarray, bins: int
) -> tuple[list[list[float]], float]:
    """Rows of the reliability table (bins without pairs are left out), and the expected calibration error.

    Args:
        sure_N: the probability, 1/2 to 1, that the model gives to its own choice.
        right_N: whether it is right: 1, 0, or 1/2 for none.
    """
    place_N = np.minimum(((sure_N - 0.5) * 2 * bins).astype(int), bins - 1)
    rows, error = [], 0.0
    for place in range(bins):
        inside = place_N == place
        if not inside.any():
            continue
        share = weight_N[inside].sum() / weight_N.sum()
        said = float(np.average(sure_N[inside], weights=weight_N[inside]))
        right = float(np.average(right_N[inside], weights=weight_N[inside]))
        error += float(share) * abs(said - right)
        edges = [0.5 + 0.5 * edge / bins for edge in (place, place + 1)]
        rows.append([*edges, int(inside.sum()), said, right])
    return rows, error


def ceiling(records: Sequence[Pair]) -> tuple[float | None, str]:
    """The accuracy that the raters' disagreement allows, and from what it is known."""
    votes: dict[tuple, list[Pair]] = {}
    for record in records:
        votes.setdefault((record.prompt, frozenset((record.chosen, record.rejected))), []).append(record)
    again = [alike for alike in votes.values() if len(alike) > 1 or alike[0].agreement is not None]
    if not again:
        return None, "unknown: no pair was judged twice"
    best = sum(map(_agreed, again)) / sum(record.weight for alike in again for record in alike)
    return best, f"from {len(again)} pairs that were judged more than once"


def _agreed(alike: Sequence[Pair]) -> float:
    """The weight of the rows of one pair that the likelier answer can be right about."""
    if len(alike) == 1 and (share := alike[0].agreement) is not None:
        return max(share, 1 - share) * alike[0].weight
    sums: Counter[tuple[Message, ...]] = Counter()
    for record in alike:
        sums[record.chosen] += record.weight
    return max(sums.values())
