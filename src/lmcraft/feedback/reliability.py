"""Can the raters be relied on? How much the first place is liked, and who guesses or answers the opposite.

    first place, one order each:   logit P(first shown wins) = b + strength(its model) − strength(the other's)
    first place, both orders:      b = ½ log OR, with OR the odds ratio of Mantel and Haenszel over items

1. `position_bias` fits the first line by logistic regression. It is right where answers differ by their model alone;
   where items of the same two models differ much, it finds too little, as every such regression does.
2. Where enough items were judged in both orders, the second line is used: what differs between items cancels, since
   the odds of an answer are e^(d+b) when it is shown first and e^(d−b) when it is not. Its error is that of Robins,
   Breslow and Greenland (1986).
3. A rater is held against what most of the others prefer. Clearly less than half: the rater answers the opposite.
   Clearly less than the median rater: the rater guesses, at least often. Raters who answer the opposite
   are then left out, and the rest is judged anew. Clearly is three standard errors.

Proved by tests/feedback/test_reliability.py.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from .agreement import PREFERENCE, beside_majority, chosen, questions
from .judgement import BOTH_BAD, TIE, Snapshot

MIN_UNITS = 10
CLEARLY = 3.0
OPPOSITE = "answers the opposite"
GUESSES = "guesses"
_MIN_TABLES = 20
_STEPS = 50


@dataclass(frozen=True, slots=True)
class Comparison:
    """One decided choice between two answers, as it stood on the screen."""

    rater: str
    item: str
    first: int
    models: tuple[str, str]  # of the answer shown first, of the other
    first_won: bool


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number of logits with its standard error, from so many comparisons, and how it was found."""

    value: float
    error: float
    comparisons: int
    method: str


def comparisons(snapshot: Snapshot, who: str = "people") -> list[Comparison]:
    """The decided choices of which the order on the screen is known."""
    found = []
    for rating in chosen(snapshot.ratings, who):
        choice, shown = rating.judgement.choice, rating.judgement.shown
        if len(shown) == 2 and choice not in (None, TIE, BOTH_BAD):
            answers = snapshot.items[rating.item].answers
            models = (answers[shown[0]].model, answers[shown[1]].model)
            found.append(Comparison(rating.rater, rating.item, shown[0], models, choice == shown[0]))
    return found


def position_bias(found: Sequence[Comparison]) -> Estimate | None:
    """How many logits the first place is worth; None where the comparisons cannot tell."""
    if not found:
        return None
    return _within_items(found) or _between_models(found)


def _within_items(found: Sequence[Comparison]) -> Estimate | None:
    """b by Mantel and Haenszel, from the items that were judged in both orders."""
    tables: dict[str, list[list[int]]] = {}
    for one in found:
        table = tables.setdefault(one.item, [[0, 0], [0, 0]])
        row = one.first  # answer 0 shown first, or answer 1
        table[row][0 if one.first_won == (one.first == 0) else 1] += 1  # answer 0 won, or answer 1
    both = [table for table in tables.values() if sum(table[0]) and sum(table[1])]
    terms = []
    for (a, b), (c, d) in both:
        count = a + b + c + d
        terms.append((a * d / count, b * c / count, (a + d) / count, (b + c) / count))
    above, below = sum(term[0] for term in terms), sum(term[1] for term in terms)
    if len(both) < _MIN_TABLES or not above or not below:
        return None
    variance = sum(
        p * r / (2 * above**2) + (p * s + q * r) / (2 * above * below) + q * s / (2 * below**2)
        for r, s, p, q in terms
    )
    used = sum(sum(map(sum, table)) for table in both)
    return Estimate(
        math.log(above / below) / 2, math.sqrt(variance) / 2, used, "Mantel-Haenszel within items"
    )


def _between_models(found: Sequence[Comparison]) -> Estimate | None:
    """b by logistic regression (Newton's method), the strengths of models beside it; one model's strength is 0."""
    import numpy as np

    names = sorted({name for one in found for name in one.models})[1:]
    rows = [
        [1.0, *((one.models[0] == name) - float(one.models[1] == name) for name in names)] for one in found
    ]
    x, y = np.array(rows), np.array([float(one.first_won) for one in found])
    weights = np.zeros(x.shape[1])
    for _ in range(_STEPS):
        p = 1 / (1 + np.exp(-x @ weights))
        information = x.T @ (x * (p * (1 - p))[:, None])
        if np.linalg.cond(information) > 1e10:
            return None  # somebody won always, or models never met: no finite estimate exists
        step = np.linalg.solve(information, x.T @ (y - p))
        weights += step
        if np.abs(step).max() < 1e-10:
            error = math.sqrt(np.linalg.inv(information)[0, 0])
            return Estimate(float(weights[0]), error, len(found), "logistic regression between models")
    return None


def raters(snapshot: Snapshot, who: str = "people") -> list[dict[str, Any]]:
    """For every rater: how often they prefer what most others prefer, and what that says about them."""
    asked = [question for question in questions(snapshot, who) if question.name == PREFERENCE]
    if not asked:
        return []
    units = [
        {name: value for name, value in said.items() if value not in (TIE, BOTH_BAD)}
        for said in asked[0].units.values()
    ]
    lines = _judged(units, frozenset())
    opposite = frozenset(line["rater"] for line in lines if line["verdict"] == OPPOSITE)
    if opposite:
        lines = _judged(units, opposite)
    simulated, seen = set(snapshot.simulated), comparisons(snapshot, who)
    for line in lines:
        line["simulated"] = line["rater"] in simulated
        bias = position_bias([one for one in seen if one.rater == line["rater"]])
        line["position_bias"] = None if bias is None else asdict(bias)
    return lines


def unreliable(snapshot: Snapshot, who: str = "people") -> list[str]:
    """Names of the raters who guess or answer the opposite."""
    return [line["rater"] for line in raters(snapshot, who) if line["verdict"] in (OPPOSITE, GUESSES)]


def _judged(units: Sequence[Mapping[str, Hashable]], without: frozenset[str]) -> list[dict[str, Any]]:
    """Every rater against the others; those in `without` do not count among the others."""
    lines = []
    for rater in sorted({name for said in units for name in said}):
        mine, theirs = beside_majority(units, rater, without)
        equal = sum(a == b for a, b in zip(mine, theirs, strict=True))
        lines.append(
            {"rater": rater, "units": len(mine), "with_majority": equal / len(mine) if mine else None}
        )
    shares = [
        line["with_majority"] for line in lines if line["units"] >= MIN_UNITS and line["rater"] not in without
    ]
    typical = median(shares) if shares else None
    for line in lines:
        line["verdict"] = _verdict(line["units"], line["with_majority"], typical)
    return lines


def _verdict(count: int, share: float | None, typical: float | None) -> str:
    if share is None or typical is None or count < MIN_UNITS:
        return "too few shared items"
    if (share - 0.5) / math.sqrt(0.25 / count) < -CLEARLY:
        return OPPOSITE
    error = math.sqrt(max(share * (1 - share), 1 / count) / count)
    return GUESSES if share + CLEARLY * error < typical else "fits"
