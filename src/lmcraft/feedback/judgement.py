"""What is judged and what was said: Items with Answers, Judgements, Raters, Ratings, and a Snapshot of all of them.

1. Answers are named by their place in the item (0, 1, …), never by the place where a rater saw them; `shown` keeps the
   order on the screen, so that a liking for the left can be measured.
2. A judgement is checked against item and guidelines before it is kept: a score off its scale would be read for ever.

Proved by tests/feedback/test_judgement.py.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from ..core.errors import UserError
from ..data.records import Message
from .guidelines import Guidelines

TIE = "tie"
BOTH_BAD = "both bad"
Action = Literal["rate", "skip", "flag", "undo"]
ACTIONS: tuple[Action, ...] = ("rate", "skip", "flag", "undo")
COMMENT_CHARACTERS = 10_000


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer, and which model wrote it; `source` says more (the run and its digest, seed, temperature)."""

    text: str
    model: str = ""
    source: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Item:
    """A prompt with the answers to it; `key` names it across databases, `id` within one (0 before it is kept)."""

    prompt: tuple[Message, ...]
    answers: tuple[Answer, ...]
    key: str = ""
    id: int = 0

    def fingerprint(self) -> str:
        """SHA-256 over prompt, answers and models: what an item that was given no key is called."""
        content = [
            [[message.role, message.content] for message in self.prompt],
            [[answer.text, answer.model] for answer in self.answers],
        ]
        return hashlib.sha256(json.dumps(content).encode("ascii")).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class Judgement:
    """What one rater says about one item; every part is optional.

    Args:
        scores: for the place of an answer, a number for each criterion.
        choice: the place of the better one of two answers, "tie" or "both bad".
        ranking: places of all answers, best first.
        shown: places in the order in which the rater saw the answers.
        seconds: how long it took.
    """

    scores: Mapping[int, Mapping[str, int]] = field(default_factory=dict)
    choice: int | str | None = None
    ranking: tuple[int, ...] = ()
    comment: str = ""
    shown: tuple[int, ...] = ()
    seconds: float | None = None

    def plain(self) -> dict[str, Any]:
        """The judgement as JSON values; parts that say nothing are left out."""
        scores = {str(place): dict(said) for place, said in sorted(self.scores.items()) if said}
        parts = {
            "scores": scores, "choice": self.choice, "ranking": list(self.ranking), "comment": self.comment,
            "shown": list(self.shown), "seconds": self.seconds,
        }  # fmt: skip
        return {name: value for name, value in parts.items() if value not in (None, "", [], {})}

    @classmethod
    def of(cls, value: Mapping[str, Any]) -> Judgement:
        """The judgement of JSON values, as `plain` gives them.

        Raises:
            ValueError: they are of another form.
        """
        unknown = value.keys() - {"scores", "choice", "ranking", "comment", "shown", "seconds"}
        if unknown:
            raise ValueError(f"a judgement has no {', '.join(sorted(unknown))}")
        try:
            return cls(
                scores={int(place): dict(said) for place, said in value.get("scores", {}).items()},
                choice=value.get("choice"),
                ranking=tuple(value.get("ranking", ())),
                comment=value.get("comment", ""),
                shown=tuple(value.get("shown", ())),
                seconds=value.get("seconds"),
            )
        except (TypeError, AttributeError) as error:
            raise ValueError(f"not a judgement: {error}") from error

    def preferences(self) -> dict[tuple[int, int], int | str]:
        """For every pair of answers (i < j) that was compared: the better place, "tie" or "both bad"."""
        if self.choice is not None:
            return {(0, 1): self.choice}
        order = {place: rank for rank, place in enumerate(self.ranking)}
        return {(i, j): i if order[i] < order[j] else j for i in order for j in order if i < j}


@dataclass(frozen=True, slots=True)
class Rating:
    """A judgement as it was kept: who, about what, when, under which version of the guidelines."""

    key: str
    item: str
    rater: str
    simulated: bool
    action: Action
    judgement: Judgement
    guidelines: int
    revision: int
    created_at: str
    supersedes: str | None = None


@dataclass(frozen=True, slots=True)
class Rater:
    """Who rates: a person, or a program that acts as one."""

    id: int
    name: str
    simulated: bool


@dataclass(frozen=True, slots=True)
class Wish:
    """A rating that is to be kept; `created_at` only where it was made before, elsewhere."""

    item: Item
    judgement: Judgement
    key: str
    action: Action = "rate"
    created_at: str | None = None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One state of a project: its items by key, its ratings in order, its newest guidelines.

    Args:
        settings: how each simulated rater decides, by name.
    """

    project: str
    items: dict[str, Item]
    ratings: list[Rating]
    guidelines: Guidelines
    version: int
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def simulated(self) -> list[str]:
        """Names of the raters that are programs."""
        return sorted({rating.rater for rating in self.ratings if rating.simulated})


def check(judgement: Judgement, item: Item, guidelines: Guidelines) -> None:
    """Compares a judgement with what was asked.

    Raises:
        UserError: it names an answer, a criterion or a score that there is not, or says nothing at all.
    """
    places = range(len(item.answers))
    for place, said in judgement.scores.items():
        _require(place in places, f"there is no answer {place}", item)
        for name, score in said.items():
            _check_score(name, score, guidelines, item)
    if judgement.choice is not None:
        _require(len(places) == 2, f"a choice is between two answers, there are {len(places)}", item)
        known = (0, 1, TIE, BOTH_BAD)
        _require(_is_one_of(judgement.choice, known), f"the choice is {judgement.choice!r}", item, known)
    for name, order in (("ranking", judgement.ranking), ("shown", judgement.shown)):
        fits = _is_order(order, len(places))
        _require(not order or fits, f"{name} must name every answer once, found {list(order)}", item)
    seconds = judgement.seconds
    is_time = seconds is None or (isinstance(seconds, int | float) and 0 <= seconds < float("inf"))
    _require(is_time, f"seconds is {seconds!r}", item)
    says = judgement.choice is not None or judgement.ranking or any(judgement.scores.values())
    _require(bool(says), "the judgement says nothing: no score, no choice, no ranking", item)


def check_comment(comment: Any) -> None:
    """Raises a UserError unless the comment is a text that can be kept and written out again."""
    if not isinstance(comment, str) or len(comment) > COMMENT_CHARACTERS:
        raise UserError("the comment is too long", why=f"at most {COMMENT_CHARACTERS:,} characters are kept")
    writable(comment, "the comment")


def writable(text: str, what: str) -> str:
    """The text, or a UserError if it holds half a surrogate pair, which no UTF-8 file could hold later."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UserError(f"{what} cannot be written as UTF-8", why=str(error)) from error
    return text


def _check_score(name: str, score: Any, guidelines: Guidelines, item: Item) -> None:
    criterion = guidelines.criterion(name)
    known = [one.name for one in guidelines.criteria]
    _require(criterion is not None, f"there is no criterion {name!r}", item, known)
    fits = isinstance(score, int) and not isinstance(score, bool) and criterion.low <= score <= criterion.high
    _require(fits, f"{name} is {score!r}, the scale goes from {criterion.low} to {criterion.high}", item)


def _is_one_of(value: Any, known: Sequence[Any]) -> bool:
    return not isinstance(value, bool) and value in known


def _is_order(order: Sequence[Any], size: int) -> bool:
    return len(order) == size and all(type(place) is int for place in order) and set(order) == {*range(size)}


def _require(holds: bool, what: str, item: Item, known: Sequence[Any] = ()) -> None:
    if not holds:
        why = f"known are {', '.join(map(str, known))}" if known else None
        raise UserError(what, where=f"item {item.key}", why=why)
