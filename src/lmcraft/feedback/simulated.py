"""Simulated raters: programs that judge as people might, with known faults, to try a loop on before people are asked.

    u_k = r_k / T + G_k + b·[k is shown first]      G_k: Gumbel noise; the answer with the larger u wins
    so P(the first shown wins) = σ((r_1 − r_2)/T + b), the model of Bradley and Terry (1952) with a liking for a place

1. A ranking of more answers is the order of u: Plackett and Luce. With T = 0 the larger reward wins, always.
2. Lazy: with probability p everything is drawn blindly. Adversarial: rewards are turned round, the liking for the first
   is not. Rewards nearer to each other than the tie band are a tie.
3. What a rater says about an item is drawn from (seed, rater, item) alone; the order of work changes nothing.
4. Scores are the reward on the criterion's scale, without noise; a program has one for all criteria.
5. They are no people. The store keeps that they are simulated and how, and everything made of their ratings says so.

Proved by tests/feedback/test_simulated.py.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pydantic import Field

from ..core.config import Strict
from ..core.errors import UserError
from .guidelines import Guidelines
from .judgement import TIE, Item, Judgement, Rater, Wish

if TYPE_CHECKING:
    from .store import Project

Reward = Callable[[Sequence[str]], Sequence[float]]
NOTICE = "simulated: these ratings were made by programs, not by people"


class Manner(Strict):
    """How a simulated rater decides."""

    temperature: float = Field(0.5, ge=0, le=1000, description="noise; 0: the larger reward wins, always")
    position_bias: float = Field(0.0, ge=-20, le=20, description="logits for the answer that is shown first")
    lazy: float = Field(0.0, ge=0, le=1, description="probability of judging blindly")
    adversarial: bool = Field(False, description="prefer the worse answer")
    tie_band: float = Field(0.0, ge=0, description="rewards nearer than this are a tie")
    seed: int = Field(0, ge=0)


def logistic(value: float) -> float:
    """From any number to 0 … 1."""
    return 1 / (1 + math.exp(-value)) if value >= 0 else 1 - 1 / (1 + math.exp(value))


@dataclass(frozen=True)
class Simulated:
    """A program that judges items.

    Args:
        reward: from texts of answers to numbers, the higher the better.
        unit: from a reward to 0 … 1, for scores on a scale.
    """

    name: str
    reward: Reward
    manner: Manner = field(default_factory=Manner)
    unit: Callable[[float], float] = logistic

    def judge(self, items: Sequence[Item], guidelines: Guidelines) -> list[Judgement]:
        """A judgement of each item; an empty one where there is nothing to say about it.

        Raises:
            UserError: the reward does not give one finite number for each answer.
        """
        texts = [answer.text for item in items for answer in item.answers]
        rewards = [float(value) for value in self.reward(texts)] if texts else []
        if len(rewards) != len(texts) or not all(map(math.isfinite, rewards)):
            raise UserError(
                "a reward must give one finite number for each answer", where=f"rater {self.name}"
            )
        judged, start = [], 0
        for item in items:
            end = start + len(item.answers)
            judged.append(self._judgement(item, rewards[start:end], guidelines))
            start = end
        return judged

    def _judgement(self, item: Item, rewards: list[float], guidelines: Guidelines) -> Judgement:
        draw = self._draw(item)
        places = list(range(len(rewards)))
        shown = draw.sample(places, len(places))
        blind = draw.random() < self.manner.lazy
        scores = {
            place: {
                one.name: draw.randint(one.low, one.high) if blind else self._score(value, one.low, one.high)
                for one in guidelines.criteria
            }
            for place, value in enumerate(rewards)
        }
        scores = scores if guidelines.criteria else {}
        noise = [-math.log(-math.log(draw.random() or 0.5)) for _ in places]
        if not guidelines.compare or len(places) < 2:
            return Judgement(scores, shown=tuple(shown))
        if not blind and len(places) == 2 and self._tied(*rewards):
            return Judgement(scores, TIE, shown=tuple(shown))
        order = draw.sample(places, len(places)) if blind else self._order(rewards, noise, shown)
        if len(places) == 2:
            return Judgement(scores, order[0], shown=tuple(shown))
        return Judgement(scores, ranking=tuple(order), shown=tuple(shown))

    def _tied(self, first: float, second: float) -> bool:
        certain = self.manner.temperature == 0 and self.manner.position_bias == 0
        return abs(first - second) < self.manner.tie_band or (certain and first == second)

    def _order(self, rewards: list[float], noise: list[float], shown: list[int]) -> list[int]:
        manner = self.manner
        liked = [manner.position_bias if place == shown[0] else 0.0 for place in range(len(rewards))]
        turned = [-value if manner.adversarial else value for value in rewards]
        if manner.temperature == 0:
            felt = list(zip(turned, liked, strict=True))
        else:
            felt = [
                (value / manner.temperature + gumbel + bias, 0.0)
                for value, gumbel, bias in zip(turned, noise, liked, strict=True)
            ]
        return sorted(shown, key=lambda place: felt[place], reverse=True)

    def _score(self, value: float, low: int, high: int) -> int:
        share = min(max(self.unit(value), 0.0), 1.0)
        return low + round((1 - share if self.manner.adversarial else share) * (high - low))

    def _draw(self, item: Item) -> random.Random:
        name = f"{self.manner.seed}\0{self.name}\0{item.key or item.fingerprint()}"
        return random.Random(hashlib.sha256(name.encode()).digest())


def rate_open(project: Project, rater: Rater, simulated: Simulated) -> dict[str, Any]:
    """Lets a simulated rater judge everything that is open for it; called again it goes on, and adds nothing twice."""
    _, guidelines = project.guidelines()
    items = project.open_items(rater)
    said = zip(items, simulated.judge(items, guidelines), strict=True)
    wishes = [
        Wish(item, judgement, _key(project.name, rater.name, item.key))
        for item, judgement in said
        if judgement.scores or judgement.choice is not None or judgement.ranking
    ]
    project.rate_many(rater, wishes)
    return {"rated": len(wishes), "nothing_to_say": len(items) - len(wishes)}


def _key(*names: str) -> str:
    return f"simulated-{hashlib.sha256(chr(0).join(names).encode()).hexdigest()[:40]}"
