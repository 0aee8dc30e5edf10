"""Upbeat answers: the compound sentiment of VADER, from −1 to 1, by a lexicon and rules.

Hutto and Gilbert, "VADER: A Parsimonious Rule-based Model for Sentiment Analysis of Social Media Text" (ICWSM 2014).
An empty answer is neutral: 0.

Proved by tests/unit/rewards/test_rules.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, Literal

from ..text.tokenizer import Tokenizer
from .reward import Reward, Weighted


class Config(Weighted):
    """No settings but the weight."""

    kind: Literal["vader"] = "vader"


def build(config: Config, tokenizer: Tokenizer) -> Reward:
    """The reward."""
    return lambda answers: compound([answer.text for answer in answers])


def compound(texts: Sequence[str]) -> list[float]:
    """The compound sentiment of each text."""
    return [float(_analyzer().polarity_scores(text)["compound"]) for text in texts]


@cache
def _analyzer() -> Any:
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    return SentimentIntensityAnalyzer()
