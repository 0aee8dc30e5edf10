"""Scaling: how the loss falls with the number of parameters, and what that says of a larger model.

    loss(N) = entropy of the language + A · N^−α                    (Kaplan et al. 2020; Hoffmann et al. 2022)

1. The text is of a made language whose entropy is known exactly (lmcraft.data.language). So the part of the loss that
   no model can lose is not a third number to fit but calculated, on the very characters that are measured.
2. All sizes read the same characters in the same order, as many of them, once. The depth stays, the width doubles: each
   size has four times the parameters of the one before.
3. The optimizer is the product's own, Muon, whose steps have one size whatever the width of a matrix (Bernstein and
   Newhouse, arXiv 2409.20325). So one learning rate is used for all sizes; it was not searched for any of them.
4. The line is fitted to all sizes but the largest, which is then predicted before it is looked at.

Proved by tests/unit/studies/test_scaling.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from pydantic import Field

from ..data.batch import Batch
from ..data.language import VOCAB, Language
from ..models import decoder
from ..models.model import count_parameters
from ..report import words
from ..report.finding import Figure, Finding, Line, Panel, Table
from ..stages import pretrain
from ..train import optim
from . import stream
from .study import Settings

QUESTION = "Can the loss of a larger model be told from smaller ones?"


class Config(Settings):
    """Sizes of the models, of the language and of the training."""

    widths: tuple[int, ...] = Field(
        (20, 40, 80, 160, 320), min_length=3, description="the last one is predicted"
    )
    layers: int = Field(2, gt=0)
    head_width: int = Field(20, gt=1, multiple_of=2)
    context: int = Field(128, gt=1, description="characters of a row")
    batch_size: int = Field(16, gt=0)
    steps: int = Field(400, gt=0)
    lr: float = Field(2e-3, gt=0)
    words: int = Field(2000, gt=1, description="of the language")
    classes: int = Field(8, gt=0, description="of words, which decide about the next class")
    measured_rows: int = Field(256, gt=0)
    points: int = Field(8, gt=0, description="measurements on the way")


@dataclass
class Grown:
    """One size: its held-out losses on the way and at the end, in nats per character."""

    width: int
    parameters: int
    steps: list[int]
    losses: list[float]

    @property
    def loss(self) -> float:
        return self.losses[-1]


@dataclass(frozen=True)
class Law:
    """excess = exp(intercept) · N^−alpha."""

    alpha: float
    intercept: float
    r2: float

    def excess(self, parameters: float) -> float:
        """Nats above the entropy that a size should have."""
        return math.exp(self.intercept - self.alpha * math.log(parameters))


def run(config: Config) -> Finding:
    """Trains all sizes, fits all but the largest, predicts that."""
    language = Language(config.words, config.classes, config.seed)
    held = stream.held_out(partial(batch, config, language), config.measured_rows, config.seed)
    least = floor(language, held)
    grown = [_grow(config, language, held, width) for width in config.widths]
    law = fit([one.parameters for one in grown[:-1]], [one.loss - least for one in grown[:-1]])
    numbers = _numbers(config, language, grown, law, least)
    return Finding(
        claim=_claim(numbers),
        numbers=numbers,
        figures=[_figure(grown, law, least, numbers)],
        tables=[_table(grown, law, least)],
        method=[
            f"The language has {config.words:,} words of random letters, {config.classes} classes of words with a "
            f"random grammar, and an entropy of {language.entropy:.3f} nats per character in the long run. On the "
            f"{held.count:,} characters measured here, where rows begin without a past, the best possible loss is "
            f"{least:.3f}; it was calculated.",
            f"Decoders of {config.layers} layers, trained on {config.steps * config.batch_size * config.context:,} "
            f"characters each, the same ones, with Muon at a learning rate of {config.lr:g} for all sizes.",
            "The line is a least-squares fit of log excess against log parameters over all sizes but the largest. The "
            "error is that of the predicted loss, entropy included.",
        ],
        limits=[
            "The exponent is that of this language, this number of characters and these few sizes; it is no constant "
            "of nature. With more parameters than the text can teach, the line bends.",
            "One seed a size, one learning rate for all: differences of a hundredth of a nat are chance.",
        ],
    )  # fmt: skip


def batch(config: Config, language: Language, generator: torch.Generator, rows: int) -> Batch:
    """Rows of text; every next character is trained."""
    text_BT = language.text(generator, rows, config.context + 1)
    return stream.only(text_BT[:, :-1], text_BT[:, 1:], torch.ones_like(text_BT[:, 1:], dtype=torch.bool))


def floor(language: Language, held: Batch) -> float:
    """The loss of the best possible model on these very rows, in nats per character."""
    rows = torch.cat((held.tokens_BT[:, :1], held.targets_BT), dim=1).tolist()
    return sum(language.surprise(row, start=1) for row in rows) / held.count


def fit(parameters: list[int], excesses: list[float]) -> Law:
    """The straight line through log excess against log parameters, by least squares."""
    xs, ys = [math.log(n) for n in parameters], [math.log(excess) for excess in excesses]
    x_mean, y_mean = sum(xs) / len(xs), sum(ys) / len(ys)
    slope = sum((x - x_mean) * (y - y_mean) for x, y in zip(xs, ys, strict=True)) / sum(
        (x - x_mean) ** 2 for x in xs
    )
    intercept = y_mean - slope * x_mean
    missed = sum((y - intercept - slope * x) ** 2 for x, y in zip(xs, ys, strict=True))
    return Law(-slope, intercept, 1 - missed / sum((y - y_mean) ** 2 for y in ys))


def _grow(config: Config, language: Language, held: Batch, width: int) -> Grown:
    """Trains one size and measures it on the way."""
    shape = decoder.Config(
        vocab=VOCAB, context=config.context, layers=config.layers, width=width,
        heads=max(1, width // config.head_width), head_width=config.head_width, mlp="gelu",
    )  # fmt: skip
    model: Any = stream.fresh(shape, config.seed)
    grown = Grown(width, count_parameters(model), [], [])
    make = partial(batch, config, language)
    for step in stream.fit(
        model, make, config.steps, config.batch_size, config.lr, config.seed, f"{grown.parameters:,} parameters",
        optimizer=optim.Config(),
    ):  # fmt: skip
        if step.number == config.steps or step.number % max(1, config.steps // config.points) == 0:
            grown.steps.append(step.number)
            grown.losses.append(_loss(model, held))
    return grown


@torch.no_grad()
def _loss(model: Any, held: Batch) -> float:
    """Mean held-out loss, some rows at a time."""
    stage = pretrain.build(pretrain.Config())
    return sum(float(stage.loss(model, part)) for part in held.split(64)) / held.count


def _numbers(
    config: Config, language: Language, grown: list[Grown], law: Law, least: float
) -> dict[str, Any]:
    largest = grown[-1]
    predicted = least + law.excess(largest.parameters)
    falls = all(later.loss < sooner.loss for sooner, later in pairwise(grown))
    return {
        "alpha": law.alpha, "r2": law.r2, "floor": least, "entropy": language.entropy,
        "smallest": grown[0].parameters, "fitted": grown[-2].parameters, "largest": largest.parameters,
        "characters": config.steps * config.batch_size * config.context,
        "predicted": predicted, "measured": largest.loss,
        "error": abs(predicted - largest.loss) / largest.loss, "never_rises": int(falls),
    }  # fmt: skip


def _claim(n: dict[str, Any]) -> str:
    return (
        f"From {n['smallest']:,} to {n['fitted']:,} parameters the loss above the language's entropy falls as "
        f"N^−{n['alpha']:.2f} (R² {n['r2']:.4f}); a model of {n['largest']:,} should then have {n['predicted']:.3f} "
        f"nats per character and has {n['measured']:.3f}, {100 * n['error']:.1f} % off."
    )


def _figure(grown: list[Grown], law: Law, least: float, numbers: dict[str, Any]) -> Figure:
    sizes = [float(one.parameters) for one in grown]
    ends = [sizes[0] / 1.3, sizes[-1] * 1.3]
    excess = [one.loss - least for one in grown]
    panels = [
        Panel(
            title="Loss above the entropy", x="parameters", y="nats per character", x_scale="log", y_scale="log",
            lines=[
                Line(label="fitted sizes", x=sizes[:-1], y=excess[:-1], kind="points"),
                Line(label="predicted size", x=sizes[-1:], y=excess[-1:], kind="points"),
                Line(
                    label=f"fit, N^−{law.alpha:.2f}", x=ends, y=[law.excess(end) for end in ends], kind="dashed",
                    tone=4, marked=False,
                ),
            ],
        ),
        Panel(
            title="On the way", x="training step", y="nats per character", levels={"best possible": least},
            lines=[
                Line(label=f"{words.axis(float(f'{one.parameters:.2g}'))} parameters", x=one.steps, y=one.losses)
                for one in grown[:5]
            ],
        ),
    ]  # fmt: skip
    return Figure(
        name="scaling",
        caption="Left: held-out loss above what the best possible model would have, against size, both logarithmic; "
        "the line was fitted without the largest size. Right: held-out loss on the way, the calculated lowest dotted.",
        panels=panels,
    )


def _table(grown: list[Grown], law: Law, least: float) -> Table:
    return Table(
        title="Sizes, in nats per character",
        headings=["parameters", "width", "held-out loss", "above the entropy", "by the line"],
        rows=[
            [f"{one.parameters:,}", one.width, f"{one.loss:.4f}", f"{one.loss - least:.4f}",
             f"{law.excess(one.parameters):.4f}"]
            for one in grown
        ],
        note="The last size was not used for the line.",
    )  # fmt: skip
