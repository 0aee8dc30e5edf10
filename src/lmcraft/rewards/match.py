"""Right answers: 1 where an answer is the one that its prompt expects, else 0.

Prompts say what they expect in the column `answer`. Case and white space around make no difference; of numbers only
the value counts.

Proved by tests/unit/rewards/test_rules.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from ..core.errors import UserError
from ..text.tokenizer import Tokenizer
from .reward import Answer, Reward, Weighted


class Config(Weighted):
    """No settings but the weight."""

    kind: Literal["match"] = "match"


def build(config: Config, tokenizer: Tokenizer) -> Reward:
    """The reward."""
    return _rewards


def _rewards(answers: Sequence[Answer]) -> list[float]:
    for answer in answers:
        if answer.expected is None:
            raise UserError(
                "a prompt does not say which answer is right", where=repr(answer.question[:60]),
                why="reward=match compares with the column `answer`", fix="add it, or choose another reward",
            )  # fmt: skip
    return [float(same(answer.text, answer.expected or "")) for answer in answers]


def same(said: str, expected: str) -> bool:
    """Whether two answers mean the same."""
    said, expected = said.strip().lower(), expected.strip().lower()
    try:
        return said == expected or float(said) == float(expected)
    except ValueError:
        return False
