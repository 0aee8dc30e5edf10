"""Trains the models of a study with a stage of the product, on records that the study made.

    records ──stage──► documents ──► rows ──► loop

1. Documents, packing, order and loop are those of `lmcraft train`; only the run directory is left out. Token shards lie
   in a temporary folder, so an interrupted study starts over and leaves nothing behind.
2. `fit` yields every step, so that a study can measure on the way; generating does not disturb training.

Proved by tests/unit/studies/test_corpus.py.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..core import find
from ..core.config import Strict
from ..core.heap import keep_freed_memory
from ..data import tokens
from ..data.loader import Loader
from ..generate.language_model import LanguageModel
from ..text.chat import ChatTemplate
from ..text.tokenizer import Tokenizer
from ..train import loop
from ..train.loop import Step
from . import stream


@dataclass(frozen=True)
class Lesson:
    """What is trained: a stage by its name and settings, its records, and rows of `width` tokens."""

    stage: str
    records: Sequence
    width: int
    settings: dict[str, Any] = field(default_factory=dict)


def fresh(config: Strict, seed: int, tokenizer: Tokenizer) -> LanguageModel:
    """The model of a config with weights drawn from `seed`, with the template that `lmcraft train sft` gives."""
    model = stream.fresh(config.model_copy(update={"vocab": tokenizer.size}), seed)
    return LanguageModel(model, tokenizer, ChatTemplate.load("chatml", tokenizer))


def fit(lm: LanguageModel, lesson: Lesson, config: loop.Config, seed: int, label: str) -> Iterator[Step]:
    """Trains and yields every step.

    Args:
        config: as in a recipe; without `steps`, as many as `epochs` need.
        label: what the progress line says.

    Raises:
        Interrupted: after SIGINT or SIGTERM.
    """
    keep_freed_memory()
    module = find.module("stages", lesson.stage)
    stage = module.build(module.Config(**lesson.settings))
    stage.ready(lm.model, lesson.records, lm.tokenizer)
    with tempfile.TemporaryDirectory() as folder:
        documents = stage.documents(lesson.records, lm.tokenizer, lm.template, lesson.width, Counter())
        shard = tokens.write(Path(folder) / "tokens", documents, lm.tokenizer.size, {}, Counter())
        loader = Loader(shard, lesson.width, config.batch_size, seed, module.PACK)
        steps = config.steps or max(1, round(config.epochs * len(loader.rows) / config.batch_size))
        complete = config.model_copy(update={
            "steps": steps, "lr": config.lr or module.LR, "precision": "fp32", "save_every": steps, "keep": 1,
        })  # fmt: skip
        yield from stream.follow(stage, lm.model, loader, complete, label)
