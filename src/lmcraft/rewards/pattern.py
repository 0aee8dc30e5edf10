"""Answers of a certain form: 1 where a regular expression matches the whole answer (or is found in it), else 0.

The answer that is looked at ends after LONGEST characters: some expressions take time that grows without bound.

Proved by tests/unit/rewards/test_rules.py.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

from pydantic import Field, field_validator

from ..text.tokenizer import Tokenizer
from .reward import Reward, Weighted

LONGEST = 4000


class Config(Weighted):
    """The regular expression (Python's)."""

    kind: Literal["pattern"] = "pattern"
    pattern: str = Field(..., max_length=1000)
    whole: bool = Field(True, description="whether it has to match the answer from its beginning to its end")

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, value: str) -> str:
        try:
            re.compile(value)
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from error
        return value


def build(config: Config, tokenizer: Tokenizer) -> Reward:
    """The reward."""
    return lambda answers: matched(config, [answer.text for answer in answers])


def matched(config: Config, texts: Sequence[str]) -> list[float]:
    """1 for each text of this form, 0 for others."""
    compiled = re.compile(config.pattern, re.DOTALL)
    matches = compiled.fullmatch if config.whole else compiled.search
    return [float(matches(text[:LONGEST].strip()) is not None) for text in texts]
