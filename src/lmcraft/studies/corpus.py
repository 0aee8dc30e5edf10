"""Trains the models of a study with a stage of the product, on records that the study made.

    records ──stage──► documents ──► rows ──► loop

1. Documents, packing, order and loop are those of `lmcraft train`; only the run directory is left out. Token shards and
   checkpoints lie in a temporary folder, so an interrupted study starts over and leaves nothing behind.
2. `fit` yields every step, so that a study can measure on the way; generating does not disturb training.

Proved by tests/unit/studies/test_corpus.py.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from ..core import find
from ..core.config import Strict
from ..core.device import keep_freed_memory
from ..core.log import Progress
from ..data import tokens
from ..data.loader import Loader
from ..generate.language_model import LanguageModel
from ..models import model as models
from ..text.chat import ChatTemplate
from ..text.tokenizer import Tokenizer
from ..train import loop, randomness
from ..train.interrupt import Interrupted
from ..train.loop import Step


def fresh(config: Strict, seed: int, tokenizer: Tokenizer) -> LanguageModel:
    """The model of a config with weights drawn from `seed`, its tokenizer, and the chat template that sft would use."""
    randomness.seed(seed)
    model = models.build(config.model_copy(update={"vocab": tokenizer.size}))
    return LanguageModel(model, tokenizer, ChatTemplate.load("chatml", tokenizer))


@dataclass(frozen=True)
class Lesson:
    """What is trained: a stage by its name and settings, records, and rows of `width` tokens."""

    stage: str
    records: Sequence
    width: int
    settings: dict[str, Any]


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
    assert lm.template is not None
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        documents = stage.documents(lesson.records, lm.tokenizer, lm.template, lesson.width, Counter())
        shard = tokens.write(place / "tokens", documents, lm.tokenizer.size, {}, Counter())
        loader = Loader(
            shard, lesson.width, config.batch_size, seed, module.PACK, finish=getattr(stage, "finish", None)
        )
        steps = config.steps or max(1, round(config.epochs * len(loader.rows) / config.batch_size))
        complete = config.model_copy(
            update={
                "steps": steps,
                "lr": config.lr or module.LR,
                "precision": "fp32",
                "save_every": steps,
                "keep": 1,
            }
        )
        yield from followed(lm.model, stage, loader, complete, place / "checkpoints", label)


def followed(
    model: nn.Module, stage: Any, loader: Any, config: loop.Config, checkpoints: Path, label: str
) -> Iterator[Step]:
    """The steps of the loop, with a progress line; an interruption says what was stopped."""
    assert config.steps
    with Progress(config.steps, "steps", label) as progress, interruptible(config.steps, label):
        for step in loop.train(stage, model, loader, config, checkpoints, report=str):
            progress.update(step.number, loss=step.loss)
            yield step


@contextmanager
def interruptible(steps: int, label: str) -> Iterator[None]:
    """Says what was stopped, and that a study does not go on where it was."""
    try:
        yield
    except Interrupted as stopped:
        stopped.what = f"stopped in {label}, which has {steps} steps"
        stopped.where, stopped.fix = None, "a study starts over when it is run again"
        raise
