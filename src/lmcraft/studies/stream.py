"""Trains the models of a study with the product's own loop, on batches that are made when they are needed.

1. A batch is a pure function of (seed, how many rows were read before), as the order of the Loader's rows is. So a
   study gives the same numbers again.
2. Held-out batches come from another seed. The tasks have so many sequences that none is met twice.
3. Weights are drawn with a seed of their own; nothing is kept on disk, so an interrupted study starts over.

Legend: B rows, T positions.
Proved by tests/unit/studies/test_stream.py.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..core.config import Strict
from ..core.log import Progress
from ..data.batch import IGNORE, Batch
from ..models import model as models
from ..stages import pretrain
from ..train import loop, optim, randomness
from ..train.interrupt import Interrupted
from ..train.loop import Step

Make = Callable[[torch.Generator, int], Batch]
HELD_OUT = 1 << 32
ADAMW = optim.Config(kind="adamw", schedule="cosine", warmup=0.05, final=0.1, weight_decay=0.0)


class Stream:
    """Endless batches of a task, with the interface that the loop knows from the Loader."""

    def __init__(self, make: Make, batch_size: int, seed: int) -> None:
        self.make, self.batch_size, self.seed = make, batch_size, seed
        self.read = 0

    @property
    def epoch(self) -> float:
        """Nothing is read twice."""
        return 0.0

    def next(self) -> Batch:
        """The next batch."""
        made = self.make(generator(self.seed, self.read), self.batch_size)
        self.read += self.batch_size
        return made

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """What a checkpoint has to keep."""
        return {}, {"read": self.read}

    def restore(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Goes on from a checkpoint."""
        self.read = facts["read"]


def generator(seed: int, place: int) -> torch.Generator:
    """A generator of its own for each place of each seed."""
    # torch takes only 32 bits of a seed, so both numbers are mixed into as many first.
    mixed = np.random.SeedSequence((seed, place)).generate_state(1)
    return torch.Generator().manual_seed(int(mixed[0]))


def held_out(make: Make, rows: int, seed: int) -> Batch:
    """A batch that training never sees."""
    return make(generator(seed, HELD_OUT), rows)


def fresh(config: Strict, seed: int) -> nn.Module:
    """The model of a config with weights drawn from `seed`."""
    randomness.seed(seed)
    return models.build(config)


def fit(
    model: nn.Module, make: Make, steps: int, batch_size: int, lr: float, seed: int, label: str,
    stage: Any = None, optimizer: optim.Config = ADAMW,
) -> Iterator[Step]:  # fmt: skip
    """Trains a model and yields every step, as `lmcraft.train` does; whoever iterates measures in between.

    Args:
        label: what the progress line says.
        stage: what is trained (its `loss`); default: every next token.

    Raises:
        Interrupted: after SIGINT or SIGTERM.
    """
    config = loop.Config(
        steps=steps, batch_size=batch_size, lr=lr, precision="fp32", save_every=steps, keep=1, optim=optimizer
    )
    trained = stage or pretrain.build(pretrain.Config())
    return follow(trained, model, Stream(make, batch_size, seed), config, label)


def follow(stage: Any, model: nn.Module, source: Any, config: loop.Config, label: str) -> Iterator[Step]:
    """The steps of the loop, with a progress line; checkpoints lie in a folder that is gone afterwards.

    Args:
        source: a Stream or a Loader.
        config: complete, as the loop wants it.
    """
    assert config.steps
    with tempfile.TemporaryDirectory() as folder, Progress(config.steps, "steps", label) as progress:
        try:
            for step in loop.train(stage, model, source, config, Path(folder), report=str):
                progress.update(step.number, loss=step.loss)
                yield step
        except Interrupted as stopped:
            stopped.what = f"stopped after step {stopped.step} of {config.steps} of {label}"
            stopped.where, stopped.fix = None, "a study starts over when it is run again"
            raise


def finish(steps: Iterator[Step]) -> Step:
    """Trains to the end; the last step."""
    last = None
    for step in steps:
        last = step
    assert last is not None
    return last


def only(tokens_BT: Tensor, targets_BT: Tensor, trained_BT: Tensor) -> Batch:
    """A batch of full rows whose targets are trained where `trained_BT` is true."""
    kept_BT = torch.where(trained_BT, targets_BT, IGNORE)
    return Batch(tokens_BT, kept_BT, torch.ones_like(tokens_BT), ["a made sequence"] * len(tokens_BT))


@torch.no_grad()
def hits(model: Any, batch: Batch) -> Tensor:
    """Whether the likeliest token is the target, bool [B, T]; false where nothing is trained."""
    guess_BT = model.head(model(batch.tokens_BT, batch.segments_BT)).argmax(dim=-1)
    return guess_BT == batch.targets_BT
