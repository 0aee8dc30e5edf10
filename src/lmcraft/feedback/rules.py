"""Rules that simulated raters go by: how upbeat a text is (VADER), how long, or whether it matches a pattern.

    vader            the compound score of C. J. Hutto and E. Gilbert (2014), −1 to 1
    length           words, the more the better, with less and less gain: n / (n + 50)
    regex:PATTERN    1 where the pattern is found, else 0

Proved by tests/feedback/test_simulated.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pydantic import ValidationError

from ..core.errors import UserError
from ..core.find import suggestion
from .opening import require
from .simulated import Reward

NAMES = ("vader", "length", "regex:PATTERN")
HALF_WORDS = 50


@dataclass(frozen=True, slots=True)
class Rule:
    """A reward, and how it is put on a scale from 0 to 1."""

    reward: Reward
    unit: Callable[[float], float]


def rule(written: str) -> Rule:
    """The rule of a name.

    Raises:
        UserError: there is none of this name, or the pattern is none.
    """
    name, _, pattern = written.partition(":")
    if name == "regex" and pattern:
        return Rule(_matches(pattern), float)
    if written == "vader":
        return Rule(_upbeat(), lambda compound: (compound + 1) / 2)
    if written == "length":
        return Rule(_long, float)
    raise UserError(f"there is no rule {written!r}{suggestion(name, ['vader', 'length', 'regex'])}",
                    why=f"rules are {', '.join(NAMES)}")  # fmt: skip


def _upbeat() -> Reward:
    require("vaderSentiment")
    from ..rewards.vader import compound

    return compound


def _long(texts: Sequence[str]) -> list[float]:
    counts = [len(text.split()) for text in texts]
    return [count / (count + HALF_WORDS) for count in counts]


def _matches(pattern: str) -> Reward:
    from ..rewards import pattern as form

    try:
        config = form.Config(pattern=pattern, whole=False)
    except ValidationError as error:
        raise UserError("the pattern is no regular expression", where=pattern,
                        why=error.errors()[0]["msg"]) from error  # fmt: skip
    return lambda texts: form.matched(config, texts)
