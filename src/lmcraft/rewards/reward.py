"""What a reward is: answers in, one number for each out; and how several are put together.

A reward's file has `Config` and `build(config, tokenizer) → Reward`. In a config a reward is its name, a mapping with
settings and a `weight`, or the directory of a reward model's run:

    reward: [vader, {kind: length, target: 40, weight: 0.2}]        reward: runs/reward

1. A reward sees the ids as they were sampled. Nothing is tokenized again, so what is scored is what was written.
2. Several rewards are added, each times its weight.
3. `along` asks what the beginnings of an answer are worth. A reward that knows of a shorter way than to be asked about
   each of them has a method of that name.

Proved by tests/unit/rewards/ and tests/contract/test_rewards.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from pydantic import Field

from ..core import find
from ..core.config import Strict
from ..core.errors import UserError
from ..text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Answer:
    """What a policy said to a prompt.

    Attributes:
        prompt_ids: what it read; `ids`: what it wrote, with the token that ended it.
        text: what it wrote, without that token.
        question: the user's last words, or the prompt's text.
        stopped: whether it ended by itself.
        expected: the right answer, where the prompt has one.
    """

    prompt_ids: Sequence[int]
    ids: Sequence[int]
    text: str
    question: str = ""
    stopped: bool = True
    expected: str | None = None


class Reward(Protocol):
    """One way to say what answers are worth."""

    def __call__(self, answers: Sequence[Answer]) -> list[float]:
        """One finite number for each answer, in order."""
        ...


def along(reward: Reward, answers: Sequence[Answer], tokenizer: Tokenizer) -> list[list[float]]:
    """What each answer was worth before each of its tokens, had it ended there by itself."""
    own = getattr(reward, "along", None)
    if own is not None:
        return own(answers, tokenizer)
    begun = [
        replace(answer, ids=answer.ids[:k], text=tokenizer.decode(answer.ids[:k]), stopped=True)
        for answer in answers
        for k in range(len(answer.ids))
    ]
    worth = iter(reward(begun))
    return [[next(worth) for _ in answer.ids] for answer in answers]


class Weighted(Strict):
    """What every reward's Config has."""

    weight: float = Field(1.0, description="by which the reward is multiplied")


def entry(value: Any) -> Any:
    """The Config of a reward from its name, its directory or its settings.

    Raises:
        UserError: there is no such reward.
    """
    if isinstance(value, str):
        value = {"kind": value} if value in find.names("rewards") else {"kind": "run", "path": value}
    if not isinstance(value, dict):
        return value
    if not isinstance(value.get("kind"), str):
        raise UserError("a reward has no kind", why=f"one of: {', '.join(find.names('rewards'))}")
    return find.module("rewards", value["kind"]).Config(**value)


class Together:
    """The weighted sum of rewards."""

    def __init__(self, parts: Sequence[tuple[float, Reward]]) -> None:
        self.parts = parts

    def __call__(self, answers: Sequence[Answer]) -> list[float]:
        """One finite number for each answer, in order.

        Raises:
            UserError: one is not finite.
        """
        totals = [0.0] * len(answers)
        for weight, one in self.parts:
            for place, score in enumerate(one(answers)):
                totals[place] += weight * score
        for answer, total in zip(answers, totals, strict=True):
            _require_finite(total, answer)
        return totals

    def along(self, answers: Sequence[Answer], tokenizer: Tokenizer) -> list[list[float]]:
        """What each answer was worth before each of its tokens.

        Raises:
            UserError: a number is not finite.
        """
        totals = [[0.0] * len(answer.ids) for answer in answers]
        for weight, one in self.parts:
            for total, scores in zip(totals, along(one, answers, tokenizer), strict=True):
                total[:] = [sum_ + weight * score for sum_, score in zip(total, scores, strict=True)]
        for answer, total in zip(answers, totals, strict=True):
            _require_finite(sum(total), answer)
        return totals

    @property
    def judges(self) -> list[Any]:
        """Those whose scores have no scale of their own, and can be given one: `normalise(answers)`."""
        return [one for _, one in self.parts if hasattr(one, "normalise")]


def _require_finite(score: float, answer: Answer) -> None:
    if not math.isfinite(score):
        raise UserError(
            f"the reward of an answer is {score}", where=repr(answer.text[:60]),
            why="it would be written into every weight", fix="look at the reward's settings",
        )  # fmt: skip


def together(configs: Sequence[Any], tokenizer: Tokenizer) -> Together:
    """The weighted sum of rewards."""
    return Together(
        [(config.weight, find.module("rewards", config.kind).build(config, tokenizer)) for config in configs]
    )
