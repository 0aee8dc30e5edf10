"""What rounds of feedback are asked to do.

Proved by tests/cli/test_rounds.py.
"""

from __future__ import annotations

from pydantic import Field

from ..core.config import Strict
from ..data.dataset import Config as Data
from ..feedback.simulated import Manner

PEOPLE = "people"


class Config(Strict):
    """Who is asked what, how often, and how the two models of a round are trained."""

    base: str = Field(description="the model to start from, and the reference of every round")
    data: Data = Field(description="prompts, or conversations whose beginnings are taken")
    project: str = Field("rounds", description="in the store of feedback")
    rater: str = Field(
        PEOPLE, description="people, or a rule that stands in for them: vader, length, regex:PATTERN"
    )
    manner: Manner = Field(Manner(), description="of a rule")
    prompts: int = Field(200, gt=0, description="prompts a round, of which each gets two answers")
    held_out: int = Field(64, gt=1, description="prompts on which base and policy are compared")
    enough: int = Field(1, gt=0, description="people who have to rate an item")
    max_new_tokens: int = Field(48, gt=0, description="of an answer")
    temperature: float = Field(1.0, gt=0, le=100)
    reward: tuple[str, ...] = Field((), description="settings of `lmcraft train reward`, key=value")
    ppo: tuple[str, ...] = Field((), description="settings of `lmcraft train ppo`, key=value")
    seed: int = Field(0, ge=0, lt=2**31)

    @property
    def simulated(self) -> bool:
        """Whether a program rates."""
        return self.rater != PEOPLE
