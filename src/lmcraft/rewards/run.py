"""A reward model: the score that the model of a run gives to prompt and answer, as they were sampled.

The run is one of `lmcraft train reward`. Its tokenizer has to be the policy's, for it reads the policy's ids.

Proved by tests/unit/rewards/test_run.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from ..core.errors import UserError
from ..generate import scoring
from ..generate.language_model import LanguageModel
from ..generate.reading import Reader
from ..text.tokenizer import Tokenizer
from .reward import Answer, Reward, Weighted, along


class Config(Weighted):
    """Where the reward model is."""

    kind: Literal["run"] = "run"
    path: str = Field(..., description="a run of `lmcraft train reward`")


def build(config: Config, tokenizer: Tokenizer) -> Reward:
    """The reward.

    Raises:
        UserError: there is no such model, it gives no scores, or it reads other tokens than the policy writes.
    """
    lm = LanguageModel.load(config.path)
    scoring.require(lm.model)
    if not lm.tokenizer.same_ids(tokenizer):
        raise UserError(
            "the reward model has another tokenizer than the policy", where=config.path,
            why="it would read other words than were written",
            fix="train both from the same base",
        )  # fmt: skip
    return Judge(Reader(lm.model, lm.tokenizer))


class Judge:
    """A reward model, as a reward."""

    def __init__(self, reader: Reader) -> None:
        self.reader = reader

    def __call__(self, answers: Sequence[Answer]) -> list[float]:
        """The score of each answer."""
        return self.reader.score(_rows(answers))

    def along(self, answers: Sequence[Answer], tokenizer: Tokenizer) -> list[list[float]]:
        """The score before each token of each answer."""
        if not scoring.reads_on(self.reader.model):
            return along(self.__call__, answers, tokenizer)
        # Of a text that is too long the beginning is left out, so there may be fewer scores than tokens.
        rows = self.reader.rows([[*answer.prompt_ids, *answer.ids[:-1]] for answer in answers])
        last = [min(len(answer.ids), len(row)) for answer, row in zip(answers, rows, strict=True)]
        found = scoring.along(self.reader.model, rows, last, self.reader.batch_size)
        return [
            [scores[0]] * (len(answer.ids) - len(scores)) + scores
            for answer, scores in zip(answers, found, strict=True)
        ]

    def normalise(self, answers: Sequence[Answer]) -> None:
        """From now on these answers have scores of mean 0 and deviation 1."""
        scoring.normalise(self.reader.model, self.reader.rows(_rows(answers)))


def _rows(answers: Sequence[Answer]) -> list[list[int]]:
    return [[*answer.prompt_ids, *answer.ids] for answer in answers]
