"""From votes, rankings and scores to preferences: a prompt, the better answer, the worse, by how much, and who said so.

    share  = (for − against) / ratings                          1: all prefer it; 0: as many against as for
    rating = mean over raters of Σ w_c·(score_i − score_j) / Σ w_c      in units of the scale

1. A rater prefers what they chose or ranked higher; where they did neither, the answer with the higher weighted
   score. Where choice and scores contradict each other the choice counts, and the margin is 0.
2. Ties and "both bad" teach no order. They count as ratings, so they lower share and agreement, and a pair that is
   tied as a whole, or that most raters call bad on both sides, is counted and left out.
3. A prompt is held out as a whole, by a hash of its words: the same prompts in every export, whatever was added since,
   and no prompt on both sides.
4. Votes have no margin unless it is asked for: how many preferred an answer is not by how much its reward is higher,
   and one voter would always ask for the distance 1. Where voters disagree, both orders are rows, and each weighs what
   its share of the votes is: so a reward model learns the odds (Bradley and Terry).
5. Each row keeps the keys of the ratings that it was made of, so a weight can be followed back to a person's vote.

Proved by tests/feedback/test_preferences.py.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, Literal

from pydantic import Field

from ..core.config import Strict
from ..core.errors import UserError
from ..data.records import Message, Pair
from .agreement import chosen
from .guidelines import Guidelines
from .judgement import BOTH_BAD, TIE, Item, Rating, Snapshot


class Config(Strict):
    """What becomes a preference, and how much it weighs."""

    who: Literal["people", "simulated", "all"] = Field("people", description="whose ratings count")
    exclude: tuple[str, ...] = Field((), description="raters who do not count")
    criteria: dict[str, float] = Field(
        {}, description="weights of criteria; default: those of the guidelines"
    )
    margin: Literal["auto", "rating", "share", "none"] = Field(
        "auto", description="auto: in units of the scale where every rater gave scores, else none"
    )
    weight: Literal["one", "agreement", "raters"] = Field("one", description="what a row weighs in training")
    min_raters: int = Field(1, ge=1, description="leave out pairs with fewer ratings")
    min_agreement: float = Field(0, ge=0, le=1, description="leave out pairs where fewer say the same")
    held_out: float = Field(0, ge=0, lt=1, description="share of the prompts to hold out")


@dataclass(frozen=True, slots=True)
class Preference:
    """One pair of answers with what the raters make of it.

    Args:
        margin: how much better, in `unit`; None where nobody said so or none was asked for.
        agreement: share of the raters who prefer the chosen answer; below 1/2 for what a minority said.
        ratings: keys of the ratings.
        simulated: whether any of them came from a program.
    """

    item: Item
    chosen: int
    rejected: int
    margin: float | None
    unit: Literal["rating", "share"] | None
    weight: float
    raters: int
    agreement: float
    ratings: tuple[str, ...]
    simulated: bool

    def pair(self) -> Pair:
        """The record that reward models and DPO are trained on."""
        sides = [
            (Message("assistant", self.item.answers[place].text),) for place in (self.chosen, self.rejected)
        ]
        agreement = self.agreement if self.raters > 1 else None
        return Pair(self.item.prompt, *sides, margin=self.margin, weight=self.weight, agreement=agreement)

    def row(self) -> dict[str, Any]:
        """The line of a file that `lmcraft data` reads as a preference, with where it came from."""
        prompt = [{"role": message.role, "content": message.content} for message in self.item.prompt]
        sides = {
            name: [{"role": "assistant", "content": self.item.answers[place].text}]
            for name, place in (("chosen", self.chosen), ("rejected", self.rejected))
        }
        models = {f"{name}_model": self.item.answers[place].model
                  for name, place in (("chosen", self.chosen), ("rejected", self.rejected))}  # fmt: skip
        margin = {} if self.margin is None else {"margin": round(self.margin, 6), "margin_unit": self.unit}
        return {
            "prompt": prompt, **sides, **margin, "weight": round(self.weight, 6), "raters": self.raters,
            "agreement": round(self.agreement, 6), **models, "item": self.item.key, "ratings": list(self.ratings),
            "simulated": self.simulated,
        }  # fmt: skip


@dataclass
class Preferences:
    """Preferences to train on and held out, and how many pairs were left out for which reason."""

    train: list[Preference] = field(default_factory=list)
    held_out: list[Preference] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)


def build(snapshot: Snapshot, config: Config) -> Preferences:
    """Preferences of a project.

    Raises:
        UserError: a criterion or an excluded rater is unknown.
    """
    weights = _weights(snapshot.guidelines, config)
    unknown = set(config.exclude) - {rating.rater for rating in snapshot.ratings}
    if unknown:
        raise UserError(f"no rater is called {', '.join(sorted(unknown))}", where="exclude")
    by_item: dict[str, list[Rating]] = {}
    for rating in chosen(snapshot.ratings, config.who):
        if rating.rater not in config.exclude:
            by_item.setdefault(rating.item, []).append(rating)
    made = Preferences()
    for key, item in snapshot.items.items():
        places = range(len(item.answers))
        for pair in [(i, j) for i in places for j in places if i < j]:
            votes = _votes(by_item.get(key, []), pair, weights)
            if not votes:
                continue
            judged = _judged(item, pair, votes, config)
            if isinstance(judged, str):
                made.left_out[judged] += 1
            elif is_held_out(item.prompt, config.held_out):
                made.held_out += judged
            else:
                made.train += judged
    return made


def is_held_out(prompt: Sequence[Message], share: float) -> bool:
    """Whether a prompt belongs to the held-out share; it depends on the prompt alone."""
    content = json.dumps([[message.role, message.content] for message in prompt])
    number = int.from_bytes(hashlib.sha256(content.encode("ascii")).digest()[:8], "big")
    return number < share * 2**64


@dataclass(frozen=True, slots=True)
class _Vote:
    """What one rater makes of one pair: 1 for the first answer, −1 for the second, 0 neither."""

    rating: Rating
    side: int
    both_bad: bool
    gap: float | None  # of the weighted scores, first minus second


def _weights(guidelines: Guidelines, config: Config) -> dict[str, float]:
    known = {one.name: one.weight for one in guidelines.criteria}
    unknown = config.criteria.keys() - known.keys()
    if unknown:
        raise UserError(f"there is no criterion {', '.join(sorted(unknown))}", where="criteria",
                        why=f"known are {', '.join(known) or 'none'}")  # fmt: skip
    weights = config.criteria or known
    if any(weight < 0 for weight in weights.values()) or (weights and not any(weights.values())):
        raise UserError("weights of criteria are not negative, and one is above 0", where="criteria")
    return weights


def _votes(ratings: Sequence[Rating], pair: tuple[int, int], weights: Mapping[str, float]) -> list[_Vote]:
    votes = []
    for rating in ratings:
        gap = _gap(rating, pair, weights)
        better = rating.judgement.preferences().get(pair)
        if better is None and gap is None:
            continue
        if better is None:
            side = (gap > 0) - (gap < 0)
        else:
            side = 0 if better in (TIE, BOTH_BAD) else 1 if better == pair[0] else -1
        votes.append(_Vote(rating, side, better == BOTH_BAD, gap))
    return votes


def _gap(rating: Rating, pair: tuple[int, int], weights: Mapping[str, float]) -> float | None:
    """The weighted mean difference of the scores, over the criteria that both answers were rated by."""
    first, second = (rating.judgement.scores.get(place, {}) for place in pair)
    shared = [name for name in weights if name in first and name in second]
    total = sum(weights[name] for name in shared)
    if total == 0:
        return None
    return sum(weights[name] * (first[name] - second[name]) for name in shared) / total


def _judged(
    item: Item, pair: tuple[int, int], votes: Sequence[_Vote], config: Config
) -> list[Preference] | str:
    """The preference of all votes together, and what speaks against it; or the reason why there is none."""
    texts = [item.answers[place].text for place in pair]
    if texts[0] == texts[1]:
        return "equal answers"
    if not all(text.strip() for text in texts):
        return "empty answer"
    count, total = len(votes), sum(vote.side for vote in votes)
    if count < config.min_raters:
        return "too few raters"
    if sum(vote.both_bad for vote in votes) * 2 > count:
        return BOTH_BAD
    if total == 0:
        return TIE
    sign = 1 if total > 0 else -1
    agreement = sum(vote.side == sign for vote in votes) / count
    if agreement < config.min_agreement:
        return "too little agreement"
    gaps = [vote.gap for vote in votes if vote.gap is not None]
    if config.margin == "rating" and not gaps:
        return "no scores to take a margin from"
    unit, margin = None, None
    if config.margin == "rating" or (config.margin == "auto" and len(gaps) == count):
        unit, margin = "rating", max(sign * fmean(gaps), 0.0)
    elif config.margin == "share":
        unit, margin = "share", abs(total) / count
    weight = {"one": 1.0, "agreement": agreement, "raters": float(count)}[config.weight]
    told = {side: sum(vote.side == side for vote in votes) for side in (sign, -sign)}
    if margin is not None:
        told = {sign: 1}  # it is lower already by what the others said
    return [
        Preference(
            item, *(pair if side > 0 else pair[::-1]), margin=margin, unit=unit,
            weight=weight * said / sum(told.values()),
            raters=count, agreement=sum(vote.side == side for vote in votes) / count,
            ratings=tuple(vote.rating.key for vote in votes),
            simulated=any(vote.rating.simulated for vote in votes),
        ) for side, said in told.items() if said
    ]  # fmt: skip
