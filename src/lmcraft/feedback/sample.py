"""Draws answers from models and makes items of them, so that people can say which are better.

1. Answers are dealt out to the models in turn: of two models and two answers, each writes one.
2. The random numbers of an answer come from (seed, model, prompt, number), so a text depends on nothing else, and the
   same command makes the same items, which the store then knows already.
3. Each answer keeps where it came from: model, digest of its files, sampling, seed.

Proved by tests/feedback/test_sample.py.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..adapt.base import directory_of
from ..core.disk import digest
from ..core.errors import UserError
from ..core.log import Progress
from ..data.records import Message, Prompt
from ..generate.language_model import LanguageModel
from ..generate.sampling import Sampling
from .judgement import Answer, Item

BATCH = 32


@dataclass
class Drawn:
    """Items to rate, and of how many prompts all answers were the same, so that nothing can be compared."""

    items: list[Item]
    alike: int


def draw(models: Sequence[str], prompts: Sequence[Prompt], number: int, sampling: Sampling) -> Drawn:
    """`number` answers to every prompt, from all models together.

    Raises:
        UserError: there are fewer answers than models, or a model cannot be asked.
    """
    if not models or number < len(models):
        raise UserError(f"{number} answers cannot come from {len(models)} models", where="option --n",
                        fix=f"ask for --n {max(len(models), 1)} or more")  # fmt: skip
    asked = list(dict.fromkeys(prompt.prompt for prompt in prompts))
    answers: dict[tuple[Message, ...], list[Answer]] = {prompt: [] for prompt in asked}
    with Progress(len(asked) * number, "answers", "sample") as progress:
        for place, model in enumerate(models):
            share = len(range(place, number, len(models)))
            for prompt, answer in _answers(model, asked, share, sampling, progress):
                answers[prompt].append(answer)
    items = [Item(prompt, tuple(given)) for prompt, given in answers.items()]
    useful = [item for item in items if number == 1 or len({answer.text for answer in item.answers}) > 1]
    return Drawn(useful, len(items) - len(useful))


def _answers(
    model: str, prompts: Sequence[tuple[Message, ...]], share: int, sampling: Sampling, progress: Progress
) -> list[tuple[tuple[Message, ...], Answer]]:
    """`share` answers of one model to every prompt."""
    lm = LanguageModel.load(model)
    if not lm.model.generates:
        raise UserError("this model writes no text", where=model)
    origin = {"model": model, "digest": digest(directory_of(model)), **sampling.model_dump(mode="json")}
    wanted = [(prompt, n) for prompt in prompts for n in range(share)]
    found = []
    for start in range(0, len(wanted), BATCH):
        part = wanted[start : start + BATCH]
        seeds = [_seed(sampling.seed, model, prompt, n) for prompt, n in part]
        drawn = lm.complete(
            [lm.asked(prompt) for prompt, _ in part],
            [sampling.model_copy(update={"seed": s}) for s in seeds],
        )
        for (prompt, _), seed, completion in zip(part, seeds, drawn, strict=True):
            source: dict[str, Any] = {**origin, "seed": seed, "finish_reason": completion.finish_reason}
            found.append((prompt, Answer(completion.text, model, source)))
        progress.update(progress.done + len(part))
    return found


def _seed(*names: Any) -> int:
    content = "\0".join(map(str, names)).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.sha256(content).digest()[:8], "big")
