"""Long memory: how gradient and recall fall with distance in an Elman network, an LSTM and a Transformer.

A few symbols are shown, each of its own kind, noise follows, and as many question marks ask for them (the copying task
of Hochreiter and Schmidhuber 1997, with noise). Two things are measured against the distance between a symbol and its
question mark:

    gradient   ‖∂ loss / ∂ embedding of the symbol‖, before and after training (Bengio et al. 1994)
    recall     how often a symbol is named

1. All models have about the same number of parameters, see the same sequences and are trained for as many steps.
   Distances are drawn so that each factor of two is as frequent; the answers are the only targets of a sequence.
   One symbol an Elman network would hold too, by falling into one of as many fixed states; several it does not.
2. The gradient is that of the last answer, taken in double precision, which holds 10⁻³⁰⁰, and divided by that at the
   hidden vector that answers. So a model that is sure of its answer, whose loss has hardly a gradient left, can be
   compared with one that is not.
3. The LSTM's forget gate starts at bias 1 (Jozefowicz et al. 2015). An untrained one still forgets: its gates are open
   by σ(1) = 0.73 a step. What it has and the Elman network has not is a way to open them.

Legend: B rows, T positions, D width, N symbols of a sequence.
Proved by tests/unit/studies/test_long_memory.py.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from ..data.batch import IGNORE, Batch
from ..models import decoder, rnn
from ..models.model import count_parameters
from ..report import words
from ..report.finding import Figure, Finding, Line, Panel, Table
from ..train.loss import summed_cross_entropy
from . import stream
from .study import Settings

QUESTION = "How far back can a network learn to remember?"
NAMES = {"rnn": "Elman RNN", "lstm": "LSTM", "attention": "Transformer"}
NOISE = 8


class Config(Settings):
    """Sizes of the task and of the three models."""

    distance: int = Field(
        64, ge=4, description="longest distance between symbol and question mark, in tokens"
    )
    symbols: int = Field(8, ge=2, description="how many different ones there are of each kind")
    items: int = Field(3, ge=1, description="how many are shown in a sequence, one of each kind")
    steps: int = Field(1200, gt=0, description="training steps of each model")
    batch_size: int = Field(64, gt=0)
    lrs: tuple[float, ...] = Field((3e-3, 1e-2), min_length=1, description="each model keeps the better one")
    rnn_width: int = Field(116, gt=0)
    lstm_width: int = Field(62, gt=0)
    attention_width: int = Field(36, gt=0, description="two layers of four heads")
    measured_rows: int = Field(256, gt=0, description="sequences for each distance of the recall curve")
    gradient_rows: int = Field(32, gt=0, description="sequences for each distance of the gradient curve")


def run(config: Config) -> Finding:
    """Trains the three models and measures each before and after."""
    distances = _distances(config)
    before, after, recall, parameters, lrs = {}, {}, {}, {}, {}
    for name, shape in models(config).items():
        untrained: Any = stream.fresh(shape, config.seed)
        parameters[name] = count_parameters(untrained)
        before[name] = gradients(untrained, config, distances)
        model, lrs[name], recall[name] = _trained(shape, config, distances, NAMES[name])
        after[name] = gradients(model, config, distances)
    numbers = _numbers(config, distances, before, after, recall, parameters)
    return Finding(
        claim=_claim(config, numbers),
        numbers=numbers,
        figures=[_figure(config, distances, before, after, recall)],
        tables=[_table(config, numbers)],
        method=[
            f"{config.items} symbols, each one of {config.symbols} of its kind, are followed by noise of {NOISE} other "
            "tokens and a question mark for each kind; only the answers there are trained. Distances are drawn so that "
            "each factor of two is as frequent.",
            f"Each model was trained on {config.steps:,} batches of {config.batch_size} sequences with AdamW, "
            f"gradients clipped to norm 1, at each peak learning rate of {', '.join(map(str, config.lrs))}; the better "
            f"one was kept ({', '.join(f'{NAMES[name]} {lr:g}' for name, lr in lrs.items())}).",
            "Gradient of the last answer: the norm at the symbol's embedding over the norm at the hidden vector that "
            f"answers, the median of {config.gradient_rows} sequences, in double precision, drawn as a multiple of its "
            f"value at distance {distances[0]}.",
            f"Recall: the share of {config.measured_rows} held-out sequences of each distance whose likeliest answer "
            "is right.",
        ],
        limits=[
            "An Elman network that names the same share at many distances holds one kind of symbol in fixed states and "
            "has given up the others; that is what it can do against the fall of its gradient.",
            "One seed. With more steps, or a curriculum, an Elman network reaches farther, and "
            "the distance at which it gives up moves; that there is such a distance does not.",
            f"{config.items} symbols are far less than a text: how much a state can hold is another question than "
            "how long.",
        ],
    )  # fmt: skip


def _trained(shape: Any, config: Config, distances: list[int], label: str) -> tuple[Any, float, list[float]]:
    """The model of the learning rate that ends with the best recall, that rate, and the recall at each distance."""
    tried = []
    for lr in config.lrs:
        model: Any = stream.fresh(shape, config.seed)
        steps = stream.fit(
            model,
            partial(task, config),
            config.steps,
            config.batch_size,
            lr,
            config.seed,
            f"{label}, lr {lr:g}",
        )
        stream.finish(steps)
        tried.append((model, lr, [_recall(model, config, distance) for distance in distances]))
    return max(tried, key=lambda one: sum(one[2]))


def models(config: Config) -> dict[str, Any]:
    """The configs of the three models, of about as many parameters."""
    vocab = config.symbols * config.items + NOISE + config.items
    plain = {"vocab": vocab, "layers": 1, "residual": False, "tied": False}
    return {
        "rnn": rnn.Config(cell="rnn", width=config.rnn_width, **plain),
        "lstm": rnn.Config(cell="lstm", width=config.lstm_width, **plain),
        "attention": decoder.Config(
            vocab=vocab, context=config.distance + config.items, layers=2, width=config.attention_width, heads=4,
            head_width=max(2, config.attention_width // 8 * 2), tied=False,
        ),
    }  # fmt: skip


def task(config: Config, generator: torch.Generator, rows: int, distance: int | None = None) -> Batch:
    """Sequences that end in question marks, each `distance` tokens (default: any) behind the symbol it asks for."""
    items, longest = config.items, config.distance
    noise, kinds_N = config.symbols * items, torch.arange(items)
    tokens_BT = torch.randint(noise, noise + NOISE, (rows, longest + items), generator=generator)
    symbols_BN = torch.randint(config.symbols, (rows, items), generator=generator) + config.symbols * kinds_N
    distances_B1 = torch.full((rows, 1), distance or 0)
    if distance is None:
        octaves_B1 = torch.rand(rows, 1, generator=generator)
        distances_B1 = (items * ((longest + 1) / items) ** octaves_B1).long().clamp(items, longest)
    tokens_BT.scatter_(1, longest - distances_B1 + kinds_N, symbols_BN)
    tokens_BT[:, longest:] = noise + NOISE + kinds_N
    targets_BT = torch.full_like(tokens_BT, IGNORE)
    targets_BT[:, longest:] = symbols_BN
    return Batch(tokens_BT, targets_BT, torch.ones_like(tokens_BT), ["a made sequence"] * rows)


def _at(config: Config, distance: int) -> stream.Make:
    return partial(task, config, distance=distance)


def _recall(model: Any, config: Config, distance: int) -> float:
    batch = stream.held_out(_at(config, distance), config.measured_rows, config.seed + 1)
    return float(stream.hits(model, batch).sum()) / batch.count


def _distances(config: Config) -> list[int]:
    """2, 3, 4, 6, 8, 11, … from the shortest that leaves room for all items to the longest."""
    shortest, longest = config.items, config.distance
    wanted = {round(2 ** (half / 2)) for half in range(2 * longest.bit_length())} | {shortest, longest}
    return sorted(d for d in wanted if shortest <= d <= longest)


def gradients(model: Any, config: Config, distances: list[int]) -> list[float]:
    """How much of the gradient at the last answer arrives at its symbol so far back; the median over sequences."""
    precise = copy.deepcopy(model).double()
    shares = []
    for distance in distances:
        batch = stream.held_out(_at(config, distance), config.gradient_rows, config.seed + 2)
        shares.append(float(_arriving(precise, batch, distance).median()))
    return shares


def _arriving(model: Any, batch: Batch, distance: int) -> Tensor:
    """‖∂ loss/∂ embedding `distance` before the end‖ / ‖∂ loss/∂ last hidden vector‖ of each row, [B]."""
    kept: list[Tensor] = []

    def keep(_: Any, __: Any, embedded_BTD: Tensor) -> None:
        kept.append(embedded_BTD)

    handle = model.embedding.register_forward_hook(keep)
    hidden_BTD = model(batch.tokens_BT, batch.segments_BT)
    handle.remove()
    loss = summed_cross_entropy(model, hidden_BTD[:, -1:], batch.targets_BT[:, -1:])
    at_symbol_BTD, at_answer_BTD = torch.autograd.grad(loss, (kept[0], hidden_BTD))
    return at_symbol_BTD[:, -1 - distance].norm(dim=-1) / at_answer_BTD[:, -1].norm(dim=-1)


def _numbers(
    config: Config, distances: list[int], before: Any, after: Any, recall: Any, parameters: Any
) -> dict:
    numbers: dict[str, float | int] = {"distance": config.distance, "chance": 1 / config.symbols}
    for name in NAMES:
        numbers[f"{name}_parameters"] = parameters[name]
        numbers[f"{name}_gradient_before"] = before[name][-1] / before[name][0]
        numbers[f"{name}_gradient_after"] = after[name][-1] / after[name][0]
        numbers[f"{name}_recall"] = recall[name][-1]
        good = [d for d, share in zip(distances, recall[name], strict=True) if share >= 0.9]
        numbers[f"{name}_reach"] = max(good, default=0)
    return numbers


def _claim(config: Config, numbers: dict) -> str:
    def three(key: str, write: Callable[[float], str]) -> str:
        rnn_, lstm, attention = (write(numbers[f"{name}_{key}"]) for name in NAMES)
        return f"{rnn_} in the Elman network, {lstm} in the LSTM and {attention} in the Transformer"

    recall = [f"{100 * numbers[f'{name}_recall']:.0f} %" for name in NAMES]
    return (
        f"Of the gradient at {config.items} tokens, what arrives at {config.distance} is before training "
        f"{three('gradient_before', words.scientific)}; after training it is "
        f"{three('gradient_after', words.scientific)}, and at that distance they name {recall[0]}, {recall[1]} and "
        f"{recall[2]} of the symbols (chance: {100 * numbers['chance']:.0f} %)."
    )


def _figure(config: Config, distances: list[int], before: Any, after: Any, recall: Any) -> Figure:
    def curves(values: dict[str, list[float]]) -> list[Line]:
        return [
            Line(label=label, x=distances, y=[value / values[name][0] for value in values[name]])
            for name, label in NAMES.items()
        ]

    lowest = min(min(values[name]) / values[name][0] for values in (before, after) for name in NAMES)
    span = (max(lowest / 10, 1e-40), max(10.0, 3 * max(max(after[n]) / after[n][0] for n in NAMES)))
    log = {
        "x": "distance, tokens",
        "y": f"gradient, relative to distance {distances[0]}",
        "y_scale": "log",
        "y_range": span,
    }
    return Figure(
        name="long-memory",
        caption="The first two panels: how much of the gradient of the answer reaches the symbol, relative to distance "
        f"{distances[0]}. A straight fall on this logarithmic scale is exponential decay. The last panel: how often "
        "the symbol is named, after equal training.",
        panels=[
            Panel(title="Gradient before training", lines=curves(before), **log),
            Panel(title="Gradient after training", lines=curves(after), **log),
            Panel(
                title="Recall after training", x="distance, tokens", y="symbols named", percent=True,
                x_scale="log2" if config.distance <= 64 else "linear",
                y_range=(0, 1.05), levels={"chance": 1 / config.symbols},
                lines=[Line(label=label, x=distances, y=recall[name]) for name, label in NAMES.items()],
            ),
        ],
    )  # fmt: skip


def _table(config: Config, numbers: dict) -> Table:
    return Table(
        title=f"At a distance of {config.distance} tokens",
        headings=["model", "parameters", "gradient before", "gradient after", "recall", "reach"],
        rows=[
            [
                label, numbers[f"{name}_parameters"], numbers[f"{name}_gradient_before"],
                numbers[f"{name}_gradient_after"], f"{100 * numbers[f'{name}_recall']:.1f} %",
                numbers[f"{name}_reach"],
            ]
            for name, label in NAMES.items()
        ],
        note=f"Gradients relative to distance {config.items}. Reach: the longest measured distance at which at least "
        "90 % of the symbols are named.",
    )  # fmt: skip
