"""Agreement among raters: percent, Cohen's κ, Fleiss' κ, Krippendorff's α, and each rater against the rest.

    κ = (p_o − p_e) / (1 − p_e)      p_o: share of equal pairs; p_e: the same by chance
    α = 1 − D_o / D_e                D: mean difference of two ratings, observed in units, expected over all

1. A unit is one question about one thing: a criterion about one answer, or which of two answers is better. Most units
   are judged by some raters only. α takes them as they are; Cohen's needs two raters and counts what both judged;
   Fleiss' needs the same number of ratings in every unit, and is left out where that is not so.
2. α is that of K. Krippendorff, Content Analysis (2004), with the level that the values have: preferences are nominal,
   scores interval unless said otherwise.
3. Where all ratings are the same there is no chance to correct for; the coefficient does not exist and is None.
4. Raters who are programs are named in every result.

Proved by tests/feedback/test_agreement.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from statistics import fmean
from typing import Any, Literal

from ..core.errors import UserError
from .judgement import Rating, Snapshot

Level = Literal["nominal", "ordinal", "interval"]
LEVELS: tuple[Level, ...] = ("nominal", "ordinal", "interval")
WHO = ("people", "simulated", "all")
PREFERENCE = "preference"
Unit = tuple[Any, ...]  # (item, place) of a criterion, (item, i, j) of a comparison


@dataclass(frozen=True)
class Question:
    """What was asked in the same way many times: for every unit, what each rater said.

    Args:
        span: the width of the scale, for scores; 1 where values only differ or not.
    """

    name: str
    level: Level
    units: dict[Unit, dict[str, Hashable]] = field(default_factory=dict)
    span: float = 1.0

    def shared(self) -> list[dict[str, Hashable]]:
        """The units that at least two raters judged."""
        return [said for said in self.units.values() if len(said) > 1]

    def difference(self, first: Any, second: Any) -> float:
        """0 for equal values, 1 for values as far apart as can be."""
        if self.level == "nominal":
            return float(first != second)
        return abs(first - second) / self.span


def chosen(ratings: Iterable[Rating], who: str = "people") -> list[Rating]:
    """The ratings of people, of simulated raters, or all; skipped and flagged items have none.

    Raises:
        UserError: `who` is none of these.
    """
    if who not in WHO:
        raise UserError(f"there are no raters called {who!r}", fix=f"say one of: {', '.join(WHO)}")
    wanted = {"people": (False,), "simulated": (True,), "all": (False, True)}[who]
    return [rating for rating in ratings if rating.action == "rate" and rating.simulated in wanted]


def questions(snapshot: Snapshot, who: str = "people", level: Level = "interval") -> list[Question]:
    """Preferences, then each criterion of the guidelines, with what the raters said."""
    preference = Question(PREFERENCE, "nominal")
    scales = {
        one.name: Question(one.name, level, span=float(one.high - one.low)) for one in snapshot.guidelines.criteria
    }  # fmt: skip
    for rating in chosen(snapshot.ratings, who):
        for (i, j), better in rating.judgement.preferences().items():
            preference.units.setdefault((rating.item, i, j), {})[rating.rater] = better
        for place, said in rating.judgement.scores.items():
            for name, score in said.items():
                if name in scales:  # a criterion of older guidelines is not compared with none
                    scales[name].units.setdefault((rating.item, place), {})[rating.rater] = score
    return [question for question in (preference, *scales.values()) if question.units]


def percent(units: Iterable[Mapping[str, Hashable]]) -> float | None:
    """The share of equal pairs of ratings, averaged over the units that have a pair."""
    shares = []
    for said in units:
        pairs = [first == second for first, second in combinations(said.values(), 2)]
        shares += [fmean(pairs)] if pairs else []
    return fmean(shares) if shares else None


def cohen(first: Sequence[Hashable], second: Sequence[Hashable]) -> float | None:
    """Cohen's κ of two raters who judged the same units, in the same order."""
    if not first:
        return None
    count = len(first)
    observed = sum(a == b for a, b in zip(first, second, strict=True)) / count
    others = Counter(second)
    chance = sum(times * others[value] for value, times in Counter(first).items()) / count**2
    return None if chance == 1 else (observed - chance) / (1 - chance)


def fleiss(table: Sequence[Sequence[int]]) -> float | None:
    """Fleiss' κ of a table with a row a unit and a column a category: how many raters chose it.

    Raises:
        ValueError: the rows have different sums, or less than two raters.
    """
    sums = {sum(row) for row in table}
    if len(sums) != 1 or min(sums) < 2:
        raise ValueError("every unit needs the same number of ratings, at least two")
    raters, units = sums.pop(), len(table)
    observed = fmean((sum(n * n for n in row) - raters) / (raters * (raters - 1)) for row in table)
    chance = sum((sum(column) / (units * raters)) ** 2 for column in zip(*table, strict=True))
    return None if chance == 1 else (observed - chance) / (1 - chance)


def alpha(units: Iterable[Mapping[str, Hashable]], level: Level) -> float | None:
    """Krippendorff's α; ratings may be missing anywhere."""
    pairable = [list(said.values()) for said in units if len(said) > 1]
    counts = Counter(value for said in pairable for value in said)
    if len(counts) < 2:
        return None
    apart = _differences(counts, level)
    observed = sum(
        2 * sum(apart[pair] for pair in combinations(said, 2)) / (len(said) - 1) for said in pairable
    )
    expected = sum(counts[one] * counts[other] * square for (one, other), square in apart.items())
    return 1 - observed * (counts.total() - 1) / expected


def _differences(counts: Counter[Any], level: Level) -> dict[tuple[Any, Any], float]:
    """The squared difference of every two values; of ordinal ones by how many ratings lie between them."""
    if level == "nominal":
        return {(one, other): float(one != other) for one in counts for other in counts}
    if level == "interval":
        return {(one, other): float(one - other) ** 2 for one in counts for other in counts}
    below, middles = 0, {}
    for value in sorted(counts):
        middles[value] = below + counts[value] / 2
        below += counts[value]
    return {(one, other): (middles[one] - middles[other]) ** 2 for one in counts for other in counts}


def report(
    snapshot: Snapshot, who: str = "people", level: Level = "interval", quarrels: int = 10
) -> dict[str, Any]:
    """Everything about agreement in one project, as JSON values."""
    asked = questions(snapshot, who, level)
    used = chosen(snapshot.ratings, who)
    return {
        "project": snapshot.project,
        "who": who,
        "ratings": len(used),
        "simulated": sorted({rating.rater for rating in used if rating.simulated}),
        "questions": [_measured(question) for question in asked],
        "raters": [line for question in asked for line in against_the_rest(question)],
        "quarrels": disagreements(asked)[:quarrels],
    }


def _measured(question: Question) -> dict[str, Any]:
    shared = question.shared()
    raters = sorted({rater for said in shared for rater in said})
    both = [(said[raters[0]], said[raters[1]]) for said in shared] if len(raters) == 2 else []
    return {
        "question": question.name,
        "level": question.level,
        "units": len(question.units),
        "shared": len(shared),
        "raters": len(raters),
        "percent": percent(shared),
        "cohen": cohen([a for a, _ in both], [b for _, b in both]) if both else None,
        "fleiss": _fleiss_of(shared),
        "alpha": alpha(shared, question.level),
    }


def _fleiss_of(shared: Sequence[Mapping[str, Hashable]]) -> float | None:
    if len({len(said) for said in shared}) != 1:
        return None
    values = list(dict.fromkeys(value for said in shared for value in said.values()))
    return fleiss([[Counter(said.values())[value] for value in values] for said in shared])


def against_the_rest(question: Question) -> list[dict[str, Any]]:
    """For every rater: how often they say what most of the others say, and Cohen's κ with that majority."""
    lines = []
    for rater in sorted({rater for said in question.units.values() for rater in said}):
        mine, theirs = beside_majority(question.units.values(), rater)
        equal = [a == b for a, b in zip(mine, theirs, strict=True)]
        lines.append({
            "rater": rater, "question": question.name, "units": len(mine),
            "with_majority": fmean(equal) if equal else None, "kappa": cohen(mine, theirs),
        })  # fmt: skip
    return lines


def beside_majority(
    units: Iterable[Mapping[str, Hashable]], rater: str, without: Collection[str] = ()
) -> tuple[list[Hashable], list[Hashable]]:
    """What a rater said, and beside it what most of the others said; units without such a majority do not count.

    Args:
        without: raters who do not count among the others.
    """
    mine, theirs = [], []
    for said in units:
        if rater in said:
            top = majority([value for name, value in said.items() if name != rater and name not in without])
            if top is not None:
                mine.append(said[rater])
                theirs.append(top)
    return mine, theirs


def majority(values: Sequence[Hashable]) -> Hashable | None:
    """The value that was said most often, or None where that is nobody's or more than one."""
    top = Counter(values).most_common(2)
    if not top or (len(top) == 2 and top[0][1] == top[1][1]):
        return None
    return top[0][0]


def disagreements(asked: Sequence[Question]) -> list[dict[str, Any]]:
    """The items that raters differ about, worst first: 0 is agreement, 1 as far apart as can be."""
    found: dict[str, list[tuple[float, str, Unit, Mapping[str, Hashable]]]] = {}
    for question in asked:
        apart: Callable[[Any, Any], float] = question.difference
        for unit, said in question.units.items():
            pairs = [apart(a, b) for a, b in combinations(said.values(), 2)]
            if pairs:
                found.setdefault(unit[0], []).append((fmean(pairs), question.name, unit, said))
    lines = []
    for item, units in found.items():
        score = fmean(unit[0] for unit in units)
        if score > 0:
            worst = max(units, key=lambda unit: unit[0])
            lines.append({
                "item": item, "disagreement": score, "question": worst[1], "answers": list(worst[2][1:]),
                "said": dict(sorted(worst[3].items())),
            })  # fmt: skip
    return sorted(lines, key=lambda line: (-line["disagreement"], line["item"]))
