"""Parallel work: how fast a Transformer and an LSTM of the same size train, read and write, against length.

    training   forward and backward over whole sequences
    reading    forward over a prompt, keeping what has to be remembered
    writing    one token at a time after a prompt

    chain      how many operations of a training step have to wait for each other

1. The operations of an LSTM wait for each other through all tokens, those of a Transformer only through its layers. The
   chain is counted in the graph that backpropagation goes back through; it is the same on every machine, and it is the
   time that a training step would take if everything else could be done at once.
2. How much of that becomes speed depends on how much a machine can do at once. So torch's fused LSTM kernel is measured
   beside our layers, which are a loop in Python: what it gains is not parallel work but the loop.
3. All are measured in turn in each repetition, so that a machine that becomes slower is so for all. A ratio is taken
   within a repetition; its median and its range are what is claimed.

Legend: B rows, T positions, D width.
Proved by tests/unit/studies/test_parallel.py.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from ..core.device import threads
from ..core.log import Progress
from ..models import decoder, rnn
from ..models.model import count_parameters
from ..report.finding import Figure, Finding, Line, Panel, Table
from ..stages import pretrain
from . import stream
from .study import Settings

QUESTION = "What does it cost that a recurrent network reads one token after the other?"
TIMES = True  # what a clock says is never the same twice
NAMES = {"attention": "Transformer", "fused": "LSTM, fused kernel", "lstm": "LSTM, step by step"}
WORK = {"training": "training", "reading": "reading a prompt", "writing": "writing after a prompt"}
Seconds = dict[tuple[str, str, int], list[float]]


class Config(Settings):
    """Lengths and sizes."""

    lengths: tuple[int, ...] = Field((32, 64, 128, 256, 512, 1024), min_length=2, description="in tokens")
    rows: int = Field(1, gt=0, description="sequences at a time")
    vocab: int = Field(256, gt=1)
    layers: int = Field(4, gt=0, description="of the Transformer")
    width: int = Field(320, gt=0, description="of the Transformer")
    heads: int = Field(5, gt=0)
    lstm_layers: int = Field(2, gt=0)
    lstm_width: int = Field(554, gt=0)
    written: int = Field(32, gt=0, description="tokens to write after each prompt")
    repeats: int = Field(5, gt=0, description="measurements of everything; the median counts")


class Fused(nn.Module):
    """torch.nn.LSTM in the place of one of our recurrent layers."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(width, width, batch_first=True)

    def forward(
        self, x_BTD: Tensor, state: tuple[Tensor, ...], segments_BT: Tensor | None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        y_BTD, (h, c) = self.lstm(x_BTD, (state[0][None], state[1][None]))
        return y_BTD, (h[0], c[0])


def run(config: Config) -> Finding:
    """Measures everything in turn, `repeats` times."""
    models = build(config)
    seconds = _measure(config, models)
    chains = {name: [chain(models[name], n) for n in config.lengths] for name in ("attention", "lstm")}
    numbers = _numbers(config, models, seconds, chains)
    return Finding(
        claim=_claim(config, numbers),
        numbers=numbers,
        figures=[_figure(config, seconds, chains)],
        tables=[_table(config, seconds, work) for work in WORK],
        method=[
            "Chain: the longest path through the graph of a training step, in operations of torch. The fused kernel is "
            "one operation to torch, so its chain cannot be counted.",
            f"Speed: {config.rows} sequence{'s' if config.rows > 1 else ''} at a time, float32. Training is the loss "
            "of every next token and its gradient, "
            "without an optimizer's step, which would be the same for all.",
            f"Writing: {config.written} tokens, one after the other, with what the model remembers of the prompt.",
            f"Everything was measured once to warm up and then {config.repeats} times in turn. Curves are medians, "
            "bands reach from the fastest to the slowest; a ratio is the median of the ratios within a repetition.",
            f"Parameters: {', '.join(f'{NAMES[name]} {count_parameters(models[name]):,}' for name in models)}.",
        ],
        limits=[
            "Speed is of this machine. With few cores the length of the chain hardly matters: what counts is how much "
            "is computed. On a GPU, where thousands of threads wait for work, it should matter far more; that was not "
            "measured.",
            "Many sequences at a time give a recurrent network work to do at once, too; the chain stays as long.",
            "Attention's cost grows with the square of the length. How far beyond these lengths it outweighs "
            "everything else was not measured either.",
        ],
    )  # fmt: skip


def build(config: Config) -> dict[str, Any]:
    """The three models."""
    longest = max(config.lengths) + config.written
    attention = decoder.Config(
        vocab=config.vocab, context=longest, layers=config.layers, width=config.width, heads=config.heads
    )
    recurrent = rnn.Config(
        cell="lstm", vocab=config.vocab, layers=config.lstm_layers, width=config.lstm_width
    )
    fused: Any = stream.fresh(recurrent, config.seed)
    fused.layers = nn.ModuleList(Fused(config.lstm_width) for _ in range(config.lstm_layers))
    return {
        "attention": stream.fresh(attention, config.seed),
        "fused": fused,
        "lstm": stream.fresh(recurrent, config.seed),
    }


def _measure(config: Config, models: dict[str, Any]) -> Seconds:
    """Seconds of every kind of work, model and length, one value a repetition."""
    kinds: dict[str, Callable[[Any, Tensor, int], float]] = {
        "training": train, "reading": lambda *given: read(*given)[0], "writing": write
    }  # fmt: skip
    found: Seconds = {
        (work, name, length): [] for work in kinds for name in models for length in config.lengths
    }
    generator = stream.generator(config.seed, 0)
    with Progress((config.repeats + 1) * len(found), "measurements", "parallel") as progress:
        for repeat in range(config.repeats + 1):
            for length in config.lengths:
                tokens_BT = torch.randint(0, config.vocab, (config.rows, length + 1), generator=generator)
                for work, act in kinds.items():
                    for name, model in models.items():
                        taken = act(model, tokens_BT, config.written)
                        if repeat > 0:
                            found[work, name, length].append(taken)
                        progress.update()
    return found


def train(model: Any, tokens_BT: Tensor, _: int) -> float:
    """Seconds of one forward and backward pass."""
    everywhere_BT = torch.ones_like(tokens_BT[:, 1:], dtype=torch.bool)
    batch = stream.only(tokens_BT[:, :-1], tokens_BT[:, 1:], everywhere_BT)
    stage = pretrain.build(pretrain.Config())
    began = time.perf_counter()
    stage.loss(model, batch).backward()
    taken = time.perf_counter() - began
    model.zero_grad(set_to_none=True)
    return taken


@torch.no_grad()
def read(model: Any, tokens_BT: Tensor, room: int) -> tuple[float, Any]:
    """Seconds of reading a prompt, and the memory of it with room for more."""
    memory = model.start(tokens_BT.shape[0], tokens_BT.shape[1] + room)
    began = time.perf_counter()
    model.head(model(tokens_BT[:, :-1], None, memory)[:, -1])
    return time.perf_counter() - began, memory


@torch.no_grad()
def write(model: Any, tokens_BT: Tensor, written: int) -> float:
    """Seconds of writing so many tokens after a prompt, each the likeliest."""
    _, memory = read(model, tokens_BT, written)
    next_B1 = tokens_BT[:, -1:]
    began = time.perf_counter()
    for _ in range(written):
        next_B1 = model.head(model(next_B1, None, memory)).argmax(dim=-1)
    return time.perf_counter() - began


def chain(model: Any, length: int) -> int:
    """The longest path through the graph of a training step on so many tokens, in operations."""
    tokens_BT = torch.zeros(1, length, dtype=torch.long)
    loss = pretrain.build(pretrain.Config()).loss(model, stream.only(tokens_BT, tokens_BT, tokens_BT == 0))
    depths: dict[Any, int] = {}
    waiting = [loss.grad_fn]
    while waiting:
        node = waiting[-1]
        before = [other for other, _ in node.next_functions if other is not None]
        unknown = [other for other in before if other not in depths]
        if unknown:
            waiting += unknown
        else:
            depths[node] = 1 + max((depths[other] for other in before), default=0)
            waiting.pop()
    return depths[loss.grad_fn]


def _amount(config: Config, work: str, length: int) -> int:
    return config.rows * (config.written if work == "writing" else length)


def speeds(config: Config, seconds: Seconds, work: str, name: str) -> list[list[float]]:
    """Tokens per second at each length, one value a repetition."""
    return [
        [_amount(config, work, length) / taken for taken in seconds[work, name, length]]
        for length in config.lengths
    ]


def ratio(config: Config, seconds: Seconds, work: str, name: str, over: str, length: int) -> list[float]:
    """How many times as fast one model is as another: median, least and most of the repetitions."""
    pairs = zip(seconds[work, over, length], seconds[work, name, length], strict=True)
    values = [slow / fast for slow, fast in pairs]
    return [median(values), min(values), max(values)]


def _numbers(
    config: Config, models: dict[str, Any], seconds: Seconds, chains: dict[str, list[int]]
) -> dict[str, Any]:
    longest = max(config.lengths)
    numbers: dict[str, Any] = {"length": longest}
    numbers |= {f"chain_{name}": steps[config.lengths.index(longest)] for name, steps in chains.items()}
    for name, model in models.items():
        numbers[f"{name}_parameters"] = count_parameters(model)
        for work in WORK:
            numbers[f"{work}_{name}"] = median(
                speeds(config, seconds, work, name)[config.lengths.index(longest)]
            )
    for work, name, over in (
        ("training", "attention", "lstm"), ("training", "attention", "fused"), ("reading", "attention", "fused"),
        ("writing", "fused", "attention"), ("writing", "lstm", "attention"),
    ):  # fmt: skip
        middle, least, most = ratio(config, seconds, work, name, over, longest)
        key = f"{work}_{name}_over_{over}"
        numbers |= {key: middle, f"{key}_least": least, f"{key}_most": most}
    shortest = min(config.lengths)
    for name in models:
        near, far = (median(seconds["writing", name, length]) for length in (shortest, longest))
        numbers[f"writing_{name}_slower"] = far / near
    return numbers


def _claim(config: Config, n: dict[str, Any]) -> str:
    def times(key: str) -> str:
        return f"{n[key]:.1f} times ({n[f'{key}_least']:.1f} to {n[f'{key}_most']:.1f})"

    return (
        f"At {n['length']:,} tokens {n['chain_lstm']:,} operations of an LSTM's training step have to wait for each "
        f"other and {n['chain_attention']:,} of a Transformer's; on {threads()} CPU core{'s' if threads() > 1 else ''} "
        f"the Transformer trains {times('training_attention_over_lstm')} as fast as the LSTM step by step and "
        f"{times('training_attention_over_fused')} as fast as one with a fused kernel. Writing one token after the "
        f"other behind {n['length']:,}, the LSTM is {times('writing_lstm_over_attention')} as fast as the Transformer."
    )


def _figure(config: Config, seconds: Seconds, chains: dict[str, list[int]]) -> Figure:
    waits = [
        Line(label=NAMES[name], x=list(config.lengths), y=[float(n) for n in chains[name]], tone=tone)
        for name, tone in (("attention", 0), ("lstm", 2))
    ]
    panels = [
        Panel(
            title="What has to wait", x="tokens of a sequence", y="operations one after the other",
            x_scale="log2", y_scale="log", lines=waits,
        )
    ]  # fmt: skip
    for work in ("training", "writing"):
        lines = []
        for name, label in NAMES.items():
            found = speeds(config, seconds, work, name)
            lines.append(
                Line(
                    label=label, x=list(config.lengths), y=[median(values) for values in found],
                    low=[min(values) for values in found], high=[max(values) for values in found],
                    kind="dashed" if name == "fused" else "line",
                )
            )  # fmt: skip
        x = "tokens of the prompt" if work == "writing" else "tokens of a sequence"
        panels.append(
            Panel(
                title=WORK[work].capitalize(),
                x=x,
                y="tokens per second",
                x_scale="log2",
                y_scale="log",
                lines=lines,
            )
        )
    return Figure(
        name="parallel",
        caption="First: the longest chain of operations in a training step. The others: speed, higher is faster; lines "
        f"are medians, bands the range of {config.repeats} repetitions.",
        panels=panels,
    )


def _table(config: Config, seconds: Seconds, work: str) -> Table:
    middle = {name: [median(values) for values in speeds(config, seconds, work, name)] for name in NAMES}
    return Table(
        title=f"{WORK[work].capitalize()}, tokens per second",
        headings=["tokens", *NAMES.values(), "Transformer / fused LSTM"],
        rows=[
            [length, *(round(middle[name][place]) for name in NAMES),
             f"{ratio(config, seconds, work, 'attention', 'fused', length)[0]:.2f}"]
            for place, length in enumerate(config.lengths)
        ],
    )  # fmt: skip
