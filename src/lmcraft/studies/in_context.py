"""In-context learning: induction heads in one and two layers, and accuracy against the number of examples.

Two tasks that nothing stored in the weights can solve, because every sequence has a truth of its own:

    induction   … A B … A → B: a random sequence is repeated, and the past says how it goes on (Olsson et al. 2022)
    examples    x₁ y₁ x₂ y₂ … xₖ → yₖ: a fresh random mapping for every sequence (Brown et al. 2020)

The models are trained on the first task alone. The second is put to the finished ones, as few-shot prompts are put to
large models: nothing is trained on it.

1. The period of the repetition differs from sequence to sequence, so it does not help to look back a fixed number of
   tokens. No token is twice in a period, so the answer is certain from the second period on.
2. Induction takes two steps, each of them a layer of attention: one head writes into every token what came before it,
   another looks for the place whose predecessor is the current token. One layer has no second step. It is as large as
   both layers of the other model together.
3. Two numbers say how much a head does of this: the attention it pays to the token before (previous-token score), and
   to the tokens that followed earlier occurrences of the current one (prefix-matching score).
4. What is possible with k examples is known: the input was among them with probability 1 − (1 − 1/X)ᵏ, and an output
   that was not shown cannot be known.

Legend: B rows, T positions, H heads, M attended positions, L layers, N trained positions.
Proved by tests/unit/studies/test_in_context.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from pydantic import Field, model_validator
from torch import Tensor

from ..data.batch import IGNORE, Batch
from ..models import decoder
from ..models.model import count_parameters
from ..report import words
from ..report.finding import Figure, Finding, Line, Panel, Table
from . import stream
from .study import Settings

QUESTION = "How does a model learn from what stands in its context?"
LAYERS = (1, 2)


class Config(Settings):
    """Sizes of the two tasks and of the models."""

    vocab: int = Field(64, ge=4, description="tokens of the repeated sequences")
    length: int = Field(48, ge=6, description="tokens of such a sequence, repetitions included")
    shortest: int = Field(8, ge=2, description="shortest period")
    longest: int = Field(24, ge=2, description="longest period")
    width: int = Field(48, gt=0, description="of the model of two layers")
    wide: int = Field(64, gt=0, description="of the model of one layer, which has as many parameters")
    heads: int = Field(4, gt=0)
    steps: int = Field(1000, gt=0, description="training steps of each model")
    batch_size: int = Field(64, gt=0)
    lr: float = Field(2e-3, gt=0)
    every: int = Field(20, gt=0, description="steps between measurements")
    measured_rows: int = Field(128, gt=0)
    inputs: int = Field(4, ge=2, description="how many inputs a mapping has, and outputs")

    @model_validator(mode="after")
    def _fits(self) -> Config:
        if not self.shortest <= self.longest <= min(self.vocab, self.length // 2):
            raise ValueError("shortest ≤ longest ≤ vocab, and the longest period must fit twice into length")
        if 2 * self.inputs > self.vocab:
            raise ValueError(
                "inputs and outputs are different tokens, so vocab must be at least twice inputs"
            )
        return self

    @property
    def shots(self) -> int:
        """Examples in a sequence."""
        return self.length // 2


@dataclass
class Curve:
    """What was measured on the way: accuracy, and the scores of every head, [L][H] each; then, the examples."""

    parameters: int
    steps: list[int] = field(default_factory=list)
    accuracy: list[float] = field(default_factory=list)
    matching: list[list[list[float]]] = field(default_factory=list)
    previous: list[list[list[float]]] = field(default_factory=list)
    by_shot: list[float] = field(default_factory=list)


def run(config: Config) -> Finding:
    """Both tasks."""
    curves = {layers: _induction(config, layers) for layers in LAYERS}
    numbers = _numbers(config, curves)
    return Finding(
        claim=_claim(config, numbers),
        numbers=numbers,
        figures=[_figure(config, curves, numbers)],
        tables=[_heads_table(curves), _shots_table(config, curves)],
        method=[
            f"Induction: {config.length} tokens that repeat a random sequence of {config.shortest} to {config.longest} "
            f"different tokens out of {config.vocab}; trained and measured where the token was seen before.",
            f"Both models were trained on {config.steps:,} batches of {config.batch_size} sequences, none of them "
            f"twice, with AdamW at a peak learning rate of {config.lr:g}, and measured every {config.every} steps on "
            f"{config.measured_rows} others.",
            "Prefix-matching score: the share of a head's attention on tokens that followed an earlier occurrence of "
            "the current token. Previous-token score: the share on the token just before.",
            f"Examples: pairs of one of {config.inputs} inputs and its output, all of them tokens drawn for each "
            f"sequence, put to the trained models in {8 * config.measured_rows:,} sequences. What is possible was "
            "calculated, not measured.",
        ],
        limits=[
            "One seed: at which step the change comes depends on it. That it comes at all, and only with two layers, "
            "does not.",
            "The tasks are made of nothing but repetition. In text, induction is one of many things that are learned, "
            "and the change is a small bend in the loss.",
        ],
    )  # fmt: skip


def repeated(config: Config, generator: torch.Generator, rows: int) -> Batch:
    """Random sequences, each repeated with its own period; trained where the current token was there before."""
    order_BV = torch.rand(rows, config.vocab, generator=generator).argsort(dim=1)
    periods_B1 = torch.randint(config.shortest, config.longest + 1, (rows, 1), generator=generator)
    places_BT = torch.arange(config.length + 1) % periods_B1
    tokens_BT = order_BV.gather(1, places_BT)
    seen_BT = torch.arange(config.length) >= periods_B1
    return stream.only(tokens_BT[:, :-1], tokens_BT[:, 1:], seen_BT)


def examples(config: Config, generator: torch.Generator, rows: int) -> Batch:
    """x y x y …: pairs of a mapping that is drawn for each sequence, as are its tokens; an output is asked for."""
    order_BV = torch.rand(rows, config.vocab, generator=generator).argsort(dim=1)
    chosen_BN = torch.randint(config.inputs, (rows, config.shots), generator=generator)
    inputs_BN, outputs_BN = order_BV.gather(1, chosen_BN), order_BV.gather(1, chosen_BN + config.inputs)
    tokens_BT = torch.stack((inputs_BN, outputs_BN), dim=2).flatten(1)
    asked_BT = (torch.arange(2 * config.shots - 1) % 2 == 0).expand(rows, -1)
    return stream.only(tokens_BT[:, :-1], tokens_BT[:, 1:], asked_BT)


def possible(config: Config, shots: int) -> float:
    """How often the output has been shown after so many examples."""
    return 1 - (1 - 1 / config.inputs) ** shots


def _induction(config: Config, layers: int) -> Curve:
    """Trains a model of so many layers on repeated sequences and measures it on the way."""
    width = config.width if layers == 2 else config.wide
    shape = decoder.Config(
        vocab=config.vocab, context=config.length, layers=layers, width=width, heads=config.heads
    )
    model: Any = stream.fresh(shape, config.seed)
    curve = Curve(count_parameters(model))
    batch = stream.held_out(partial(repeated, config), config.measured_rows, config.seed)

    def measure(step: int) -> None:
        with attention_of(model) as weights:
            hits_BT = stream.hits(model, batch)
        curve.steps.append(step)
        curve.accuracy.append(float(hits_BT.sum()) / batch.count)
        scores = [head_scores(weights_BHTM, batch) for weights_BHTM in weights]
        curve.matching.append([matching for matching, _ in scores])
        curve.previous.append([previous for _, previous in scores])

    measure(0)
    make = partial(repeated, config)
    for step in stream.fit(
        model, make, config.steps, config.batch_size, config.lr, config.seed, _layers(layers)
    ):
        if step.number % config.every == 0 or step.number == config.steps:
            measure(step.number)
    asked = stream.held_out(partial(examples, config), 8 * config.measured_rows, config.seed)
    curve.by_shot = stream.hits(model, asked)[:, ::2].float().mean(dim=0).tolist()
    return curve


@contextmanager
def attention_of(model: Any) -> Iterator[list[Tensor]]:
    """Attention weights of every layer, [B, H, T, M] each, of the forward passes inside."""
    kept: list[Tensor] = []
    for block in model.blocks:
        block.attn.record = kept
    try:
        yield kept
    finally:
        for block in model.blocks:
            block.attn.record = None


def head_scores(weights_BHTM: Tensor, batch: Batch) -> tuple[list[float], list[float]]:
    """Prefix-matching and previous-token score of each head, over the trained positions."""
    tokens_BT = batch.tokens_BT
    before_BT = torch.cat((torch.full_like(tokens_BT[:, :1], -1), tokens_BT[:, :-1]), dim=1)
    follows_BTM = tokens_BT[:, :, None] == before_BT[:, None, :]
    trained_BT = batch.targets_BT != IGNORE
    index_T = torch.arange(tokens_BT.shape[1])
    previous_TM = index_T[:, None] - 1 == index_T
    scores = []
    for place in (follows_BTM[:, None], previous_TM):
        paid_BHT = (weights_BHTM * place).sum(dim=-1)
        scores.append(paid_BHT.transpose(1, 2)[trained_BT].mean(dim=0).tolist())
    return scores[0], scores[1]


def _numbers(config: Config, curves: dict[int, Curve]) -> dict[str, Any]:
    numbers: dict[str, Any] = {}
    for layers, curve in curves.items():
        numbers[f"accuracy_{layers}"] = curve.accuracy[-1]
        numbers[f"parameters_{layers}"] = curve.parameters
    two = curves[2]
    numbers["step_at_10_percent"] = _first(two, 0.1)
    numbers["step_at_90_percent"] = _first(two, 0.9)
    numbers["matching_score"] = max(two.matching[-1][1])
    numbers["matching_head"] = 1 + two.matching[-1][1].index(numbers["matching_score"])
    numbers["matching_score_before"] = max(max(layer) for layer in two.matching[0])
    numbers["matching_score_1"] = max(curves[1].matching[-1][0])
    numbers["previous_score"] = max(two.previous[-1][0])
    numbers["previous_head"] = 1 + two.previous[-1][0].index(numbers["previous_score"])
    last = config.shots - 1
    numbers |= {"examples": last, "possible": possible(config, last), "without_examples": two.by_shot[0]}
    numbers |= {f"examples_{layers}": curve.by_shot[-1] for layers, curve in curves.items()}
    return numbers


def _first(curve: Curve, share: float) -> int | None:
    """The first measured step from which on the accuracy is never below a share."""
    below = [step for step, value in zip(curve.steps, curve.accuracy, strict=True) if value < share]
    later = [step for step in curve.steps if not below or step > below[-1]]
    return later[0] if later else None


def _claim(config: Config, n: dict[str, Any]) -> str:
    rise = ""
    if n["step_at_90_percent"] is not None:
        rise = (
            f" The rise from 10 to 90 % takes {n['step_at_90_percent'] - n['step_at_10_percent']} of {config.steps} "
            f"steps and comes with a head in layer 2 that pays {percent(n['matching_score'])} of its attention to what "
            "followed the current token before."
        )  # fmt: skip
    return (
        f"Two layers continue {percent(n['accuracy_2'])} of a repeated random sequence rightly, one layer of the same "
        f"size {percent(n['accuracy_1'])}.{rise} Asked for a mapping by example, which it was never trained on, the "
        f"model of two layers goes from {percent(n['without_examples'])} right without an example to "
        f"{percent(n['examples_2'])} after {n['examples']} (possible: {percent(n['possible'])}; one layer: "
        f"{percent(n['examples_1'])})."
    )


def percent(value: float) -> str:
    """A share in words, to the whole percent or, near the ends, to a tenth."""
    return words.share(value, 1) if value > 0.95 or value < 0.05 else f"{100 * value:.0f} %"


def _figure(config: Config, curves: dict[int, Curve], numbers: dict[str, Any]) -> Figure:
    two = curves[2]
    shares = {"percent": True, "y_range": (0, 1.05)}
    best = [
        Line(
            label=f"matches the prefix (layer 2, head {numbers['matching_head']})", x=two.steps, tone=2,
            y=[step[1][numbers["matching_head"] - 1] for step in two.matching],
        ),
        Line(
            label=f"looks one back (layer 1, head {numbers['previous_head']})", x=two.steps, tone=3, kind="dashed",
            y=[step[0][numbers["previous_head"] - 1] for step in two.previous],
        ),
    ]  # fmt: skip
    accuracies = [
        Line(
            label=_layers(layers),
            x=curves[layers].steps,
            y=curves[layers].accuracy,
        )
        for layers in reversed(LAYERS)
    ]
    count = list(range(config.shots))
    return Figure(
        name="in-context",
        caption="First: a repeated random sequence is continued by two layers and not by one. Second: the two heads of "
        "the model of two layers that do it, at the same steps. Third: pairs of an input and an output, the mapping "
        "drawn for each sequence.",
        panels=[
            Panel(title="Induction", x="training step", y="right continuations", lines=accuracies, **shares),
            Panel(title="Heads of the two layers", x="training step", y="share of attention", lines=best, **shares),
            Panel(
                title="A task never trained, by example", x="examples in the context", y="right answers",
                lines=[
                    *(Line(label=_layers(n), x=count, y=curves[n].by_shot) for n in reversed(LAYERS)),
                    Line(label="possible", x=count, y=[possible(config, k) for k in count], kind="dashed", tone=4),
                ],
                **shares,
            ),
        ],
    )  # fmt: skip


def _heads_table(curves: dict[int, Curve]) -> Table:
    rows = [
        [
            f"{_layers(layers)}: layer {layer + 1}, head {head + 1}",
            *map(percent, scores),
        ]
        for layers, curve in curves.items()
        for layer, pairs in enumerate(zip(curve.previous[-1], curve.matching[-1], strict=True))
        for head, scores in enumerate(zip(*pairs, strict=True))
    ]
    return Table(
        title="What the heads look at, at the end",
        headings=["head", "previous token", "prefix matching"],
        rows=rows,
    )


def _shots_table(config: Config, curves: dict[int, Curve]) -> Table:
    asked = sorted({0, 1, 2, 4, 8, 16, config.shots - 1} & set(range(config.shots)))
    return Table(
        title="Right answers against the number of examples",
        headings=["examples", *map(_layers, LAYERS), "possible"],
        rows=[
            [k, *(percent(curves[layers].by_shot[k]) for layers in LAYERS), percent(possible(config, k))]
            for k in asked
        ],
    )


def _layers(layers: int) -> str:
    return f"{layers} layer{'s' if layers > 1 else ''}"
