"""Answers of a certain length: minus the distance in tokens from the target, in units of the target.

Proved by tests/unit/rewards/test_rules.py.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ..text.tokenizer import Tokenizer
from .reward import Reward, Weighted


class Config(Weighted):
    """How long an answer should be."""

    kind: Literal["length"] = "length"
    target: int = Field(32, gt=0, description="tokens of an answer, with the one that ends it")


def build(config: Config, tokenizer: Tokenizer) -> Reward:
    """The reward."""
    return lambda answers: [-abs(len(answer.ids) - config.target) / config.target for answer in answers]
