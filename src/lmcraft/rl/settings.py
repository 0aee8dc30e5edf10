"""How answers are drawn for reinforcement learning: how many, how long, how hot; shared by the stages that learn so.

Proved by tests/unit/rl/test_experience.py.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field, field_validator

from ..core.config import Strict
from ..rewards.reward import entry

# AdamW and this ε are those of Huang et al., arXiv 2403.17031. With all of it tests/reinforce comes to the known
# optimum, so users get what was proved. On the demo's model ε made no difference (docs/log.md).
ADAMW = {"kind": "adamw", "eps": 1e-5, "betas": (0.9, 0.999), "weight_decay": 0.0}


class Rollout(Strict):
    """One round of answers, on which the policy then trains."""

    episodes: int | None = Field(None, gt=0, description="answers a round; default: train.batch_size")
    epochs: int = Field(4, gt=0, description="how often each round of answers is trained on")
    max_new_tokens: int = Field(48, gt=0, description="an answer is cut off there")
    temperature: float = Field(1.0, gt=0, le=100)
    begin: int = Field(8, gt=0, description="tokens of a text that are given as a prompt")
    missing_eos: float | None = Field(
        -1.0, description="the score of an answer that does not end by itself; null: its reward"
    )
    rows: int = Field(64, gt=0, description="answers that are written at the same time")


class Once(Rollout):
    """A round that is trained on once."""

    epochs: int = Field(1, gt=0, description="how often each round of answers is trained on")


class Rewarded(Strict):
    """What every stage has that learns from a reward."""

    reward: tuple[Any, ...] = Field(
        (), description="vader, length, …, a reward model's run, or a list of them"
    )
    rollout: Rollout = Rollout()

    @field_validator("reward", mode="before")
    @classmethod
    def _entries(cls, value: Any) -> Any:
        return tuple(entry(one) for one in (value if isinstance(value, (list, tuple)) else [value]))


class Anchored(Rewarded):
    """What every stage has that stays near a reference."""

    reference: str = Field(
        "", description="a run or a model to stay near; default: the base, as it is before training"
    )
