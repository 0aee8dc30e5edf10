"""Translation: an LSTM, an LSTM with additive attention and a Transformer, at equal parameters and time.

All three are trained with the stage `translate` on the same lines for the same number of seconds. Measured are exact
matches, BLEU by the length of the source (figure 2 of Bahdanau et al. 2015), and where the truth is known, whether
attention points to the word that is being translated.

    lmcraft study translation                              number words, English to German
    lmcraft study translation task=copy                    or task=reverse: letters, also without positions
    lmcraft study translation data=pairs.jsonl             pairs of your own

1. The widths of the recurrent models are those whose parameters come closest to the Transformer's.
2. Steps are how many fit into `seconds`, by the median of a few; `steps` gives every model as many instead.

Proved by tests/unit/studies/test_translation.py.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal

import torch
from pydantic import Field, model_validator

from ..core.config import Strict
from ..data.records import Parallel
from ..evals import bleu
from ..generate.language_model import LanguageModel
from ..models import encdec, seq2seq
from ..models import model as models
from ..models.model import count_parameters
from ..report.finding import Figure, Finding, Grid, Line, Panel, Table
from ..train import loop, optim
from . import alignment, corpus, pairs
from .alignment import Score
from .pairs import Sizes, Task
from .study import Settings

QUESTION = "What does attention change in translation?"
TIMES = True
NAMES = {
    "lstm": "LSTM",
    "attention": "LSTM + attention",
    "transformer": "Transformer",
    "unplaced": "Transformer without positions",
}
LETTERS = {"joined": 1, "lengths": (5, 10, 15, 20), "positions": "learned"}
TIMED_STEPS = 8


class Config(Settings):
    """The task, the sizes and the time."""

    task: Literal["numbers", "copy", "reverse"] = Field("numbers", description="where no data are given")
    data: str | None = Field(None, description="a file of pairs; default: `task`")
    columns: dict[str, str] = Field({}, description="source and target → their columns in the file")
    below: int = Field(10**6, gt=1, le=10**9, description="numbers are smaller")
    joined: int = Field(8, ge=1, description="most items in a line")
    lengths: tuple[int, ...] = Field(
        (15, 30, 45, 60), min_length=1, description="words at which groups of lines end"
    )
    lines: int = Field(20000, ge=10, description="lines to train on")
    test_lines: int = Field(100, ge=2, description="held-out lines of each length")
    width: int = Field(128, gt=0, description="of the Transformer")
    layers: int = Field(2, gt=0, description="of each encoder and each decoder")
    positions: Literal["sinusoidal", "learned", "relative"] = Field(
        "sinusoidal", description="of the Transformer; learned ones tell doubled letters apart sooner"
    )
    batch_size: int = Field(64, gt=0)
    lr: float = Field(2e-3, gt=0)
    optimizer: Literal["muon", "adamw"] = "muon"
    seconds: float = Field(70, gt=0, description="of training for each model")
    steps: int | None = Field(None, gt=0, description="of training for each model, instead of seconds")

    @model_validator(mode="before")
    @classmethod
    def _for_letters(cls, values: Any) -> Any:
        letters = (
            isinstance(values, dict) and values.get("task") in ("copy", "reverse") and not values.get("data")
        )
        return {**LETTERS, **values} if letters else values


@dataclass(frozen=True)
class Scores:
    """What was measured of one model."""

    parameters: int
    steps: int
    seconds: float
    exact: float
    groups: dict[str, tuple[float, float]]
    aligned: Score | None
    grid: Grid | None


def run(config: Config) -> Finding:
    """Trains and measures the models one after the other."""
    task = task_of(config)
    found: dict[str, Scores] = {}
    for name, shape in shapes(config, task).items():
        lm = corpus.fresh(shape, config.seed, task.tokenizer)
        steps, seconds = _train(config, task, lm, shape, NAMES[name])
        found[name] = _measure(config, task, lm, NAMES[name], steps, seconds)
    return _finding(config, task, found)


def task_of(config: Config) -> Task:
    """The lines to train on and to measure on."""
    sizes = Sizes(config.lines, config.test_lines, config.joined, config.lengths, config.below)
    if config.data is not None:
        return pairs.of_file(config.data, config.columns, sizes, config.seed)
    if config.task == "numbers":
        return pairs.numbers(sizes, config.seed)
    return pairs.letters(config.task, sizes, config.seed)


def shapes(config: Config, task: Task) -> dict[str, Any]:
    """The configs of the models, of about as many parameters."""
    vocab, layers = task.tokenizer.size, config.layers
    transformer = encdec.Config(
        vocab=vocab, layers=layers, width=config.width, heads=4, context=512, positions=config.positions
    )
    aim = _size(transformer)
    found: dict[str, Any] = {}
    for name, attention in (("lstm", "none"), ("attention", "additive")):
        recurrent = seq2seq.Config(vocab=vocab, layers=layers, attention=attention)
        found[name] = _of_size(recurrent, aim, 2 * config.width)
    found["transformer"] = transformer
    if task.name in ("copy", "reverse"):
        found["unplaced"] = transformer.model_copy(update={"positions": "none"})
    return found


def _of_size(shape: Strict, aim: int, widest: int) -> Strict:
    """The config with the width, a multiple of four, that gives the number of parameters nearest to `aim`."""
    choices = [shape.model_copy(update={"width": width}) for width in range(4, widest + 1, 4)]
    place = bisect_left(choices, aim, key=_size)
    return min(choices[max(0, place - 1) : place + 1], key=lambda each: abs(_size(each) - aim))


def _size(shape: Strict) -> int:
    with torch.device("meta"):
        return count_parameters(models.build(shape))


def _train(config: Config, task: Task, lm: LanguageModel, shape: Any, label: str) -> tuple[int, float]:
    """Steps and seconds of training."""
    lesson = corpus.Lesson("translate", task.train, 512, {"smoothing": 0.0 if task.by_tokens else 0.1})
    training = loop.Config(
        steps=config.steps or TIMED_STEPS,
        batch_size=config.batch_size,
        lr=config.lr,
        optim=optim.Config(kind=config.optimizer, schedule="cosine", warmup=0.05, weight_decay=0.0),
    )
    if config.steps is None:
        trial = corpus.fresh(shape, config.seed, task.tokenizer)
        times = [step.seconds for step in corpus.fit(trial, lesson, training, config.seed, f"timing {label}")]
        steps = max(TIMED_STEPS, round(config.seconds / median(times[2:])))
        training = training.model_copy(update={"steps": steps})
    took = [step.seconds for step in corpus.fit(lm, lesson, training, config.seed, label)]
    return len(took), sum(took)


def _measure(config: Config, task: Task, lm: LanguageModel, label: str, steps: int, seconds: float) -> Scores:
    texts = translate(lm, task.items)
    hits = [text == row.target for text, row in zip(texts, task.items, strict=True)]
    groups = {name: judged(task, rows, translate(lm, rows)) for name, rows in task.groups.items()}
    aligned = alignment.score(lm, task.aligned) if task.aligned else None
    grid = None if aligned is None else _grid(lm, task, label, aligned.layer)
    return Scores(
        count_parameters(lm.model), steps, round(seconds, 1), sum(hits) / len(hits), groups, aligned, grid
    )


def translate(lm: LanguageModel, rows: Sequence[Parallel]) -> list[str]:
    """The greedy translation of each row, as long as its reference could be twice."""
    longest = 2 * max(len(lm.tokenizer.encode_plain(row.target)) for row in rows) + 5
    said = bleu.translations(lm, [row.source for row in rows], bleu.Config(max_new_tokens=longest))
    return [each.text for each in said]


def judged(task: Task, rows: Sequence[Parallel], texts: Sequence[str]) -> tuple[float, float]:
    """BLEU and the share of lines without a mistake."""
    references = [row.target for row in rows]
    exact = sum(text == reference for text, reference in zip(texts, references, strict=True)) / len(rows)
    if not task.by_tokens:
        return bleu.metric().corpus_score(list(texts), [references]).score, exact
    said, true = ([_apart(task, text) for text in side] for side in (texts, references))
    return bleu.metric("none").corpus_score(said, [true]).score, exact


def _apart(task: Task, text: str) -> str:
    """The tokens of a text with spaces between."""
    return " ".join(_labels(task, text))


def _labels(task: Task, text: str) -> list[str]:
    tokens = (task.tokenizer.decode([number]).strip() for number in task.tokenizer.encode_plain(text))
    return [token or "␣" for token in tokens]


def _grid(lm: LanguageModel, task: Task, label: str, layer: int) -> Grid:
    """The alignment of a line that reverses an order, of those that were not used to choose the layer."""
    second = task.aligned[len(task.aligned) // 2 :]
    line = max(second, key=lambda each: each.pair.target.count("und") - each.pair.target.count("hundert"))
    rows = _labels(task, line.pair.target)
    weights_TS = alignment.attention(lm, line.pair)[layer][: len(rows)]
    true = alignment.truth(task.tokenizer, line)
    return Grid(
        title=label, x="source", y="target", columns=[*_labels(task, line.pair.source), "end"], rows=rows,
        values=[[round(float(share), 4) for share in row] for row in weights_TS], label="attention",
        marked=[(row, column) for row, columns in sorted(true.items()) for column in sorted(columns)],
        mark="what the token stands for",
    )  # fmt: skip


def _finding(config: Config, task: Task, found: dict[str, Scores]) -> Finding:
    figures = [_by_length(task, found)]
    grids = [scores.grid for scores in found.values() if scores.grid is not None]
    if grids:
        figures.append(Figure(name="alignment", caption=GRIDS, panels=list(grids)))
    long = f"for {config.steps:,} steps" if config.steps else f"for about {config.seconds:g} seconds"
    optimizer = {"muon": "Muon", "adamw": "AdamW"}[config.optimizer]
    scored = "on the parts of the lines, since their words are long" if task.by_tokens else "13a, on the text"
    return Finding(
        claim=_claim(task, found),
        numbers=_numbers(found),
        figures=figures,
        tables=[_table(task, found)],
        method=[
            f"{len(task.train):,} lines, {ABOUT[task.name]}. Each model was trained with the stage `translate` "
            f"on the same lines in the same order, {config.batch_size} at once, with {optimizer} at {config.lr:g}, "
            f"{long}.",
            f"Translations are greedy. Exact: the whole line is right. BLEU is sacreBLEU's, {scored}.",
            *([ALIGNED] if grids else []),
        ],
        limits=[
            "One seed, one learning rate and a very short training; nothing was tuned for one of the models.",
            "A Python loop drives the recurrent models through a line, so in the same seconds they take fewer steps "
            "than a fused implementation would.",
        ],
    )


ABOUT = {
    "numbers": "one to several numbers in words, German after English; numbers of the test are never in training",
    "copy": "letters, and the same letters again",
    "reverse": "letters, and the same letters from the last to the first",
    "file": "pairs of the file, and several of them joined",
}
ALIGNED = (
    "Alignment error: the share of target tokens whose most attended source token is not one that they stand for, "
    "while the model reads the right translation. Heads are averaged; of several layers the one is taken that errs "
    "least on other lines."
)
GRIDS = (
    "Where each model looks while it writes: a row for each part of the German number, from top to bottom, a column "
    "for each part of the English one. Frames: what the part stands for. Ones and tens change places."
)


def _numbers(found: dict[str, Scores]) -> dict[str, float | int | str | None]:
    numbers: dict[str, float | int | str | None] = {}
    for name, scores in found.items():
        numbers |= {
            f"{name}_parameters": scores.parameters, f"{name}_steps": scores.steps, f"{name}_seconds": scores.seconds,
            f"{name}_exact": scores.exact,
        }  # fmt: skip
        for group, (score, exact) in scores.groups.items():
            numbers |= {f"{name}_bleu_{group}": score, f"{name}_exact_{group}": exact}
        if scores.aligned is not None:
            numbers |= {
                f"{name}_alignment_error": scores.aligned.error,
                f"{name}_alignment_mass": scores.aligned.mass,
            }
    return numbers


def _claim(task: Task, found: dict[str, Scores]) -> str:
    items = "unseen numbers" if task.name == "numbers" else "held-out lines"
    exact, falls, errors = [], [], []
    for name, scores in found.items():
        bleus = [score for score, _ in scores.groups.values()]
        exact.append(f"{NAMES[name]} {100 * scores.exact:.1f} %")
        falls.append(f"{NAMES[name]} from {bleus[0]:.0f} to {bleus[-1]:.0f}")
        if scores.aligned is not None:
            errors.append(f"{100 * scores.aligned.error:.1f} % ({NAMES[name]})")
    claim = (
        f"Right of the {items}: {', '.join(exact)}; BLEU from short lines to long ones: {', '.join(falls)}."
    )
    if errors:
        claim += f" Attention points to the wrong part for {', '.join(errors)} of the parts."
    return claim


def _by_length(task: Task, found: dict[str, Scores]) -> Figure:
    places = [sum(map(pairs.words, rows)) / len(rows) for rows in task.groups.values()]
    kinds = list(NAMES)

    def lines(which: int) -> list[Line]:
        return [
            Line(
                label=NAMES[name],
                x=places,
                y=[s.groups[g][which] for g in task.groups],
                tone=kinds.index(name),
            )
            for name, s in found.items()
        ]

    return Figure(
        name="translation",
        caption="By the length of the source, for held-out lines that were grouped by it; each point stands at the "
        "mean length of its group.",
        panels=[
            Panel(title="BLEU by length", x="words of the source", y="BLEU", y_range=(0, 103), lines=lines(0)),
            Panel(
                title="Lines without a mistake", x="words of the source", y="lines", percent=True,
                y_range=(0, 1.03), lines=lines(1),
            ),
        ],
    )  # fmt: skip


def _table(task: Task, found: dict[str, Scores]) -> Table:
    groups = list(task.groups)
    headings = [
        "model",
        "parameters",
        "steps",
        "seconds",
        "exact",
        *(f"BLEU, {group} words" for group in groups),
    ]
    rows: list[list[float | int | str | None]] = [
        [
            NAMES[name], f"{s.parameters:,}", f"{s.steps:,}", f"{s.seconds:.0f}", f"{100 * s.exact:.1f} %",
            *(f"{s.groups[group][0]:.1f}" for group in groups),
        ]
        for name, s in found.items()
    ]  # fmt: skip
    if task.aligned:
        headings.append("alignment error")
        for row, scores in zip(rows, found.values(), strict=True):
            row.append(None if scores.aligned is None else f"{100 * scores.aligned.error:.1f} %")
    return Table(
        title="The models", headings=headings, rows=rows,
        note="Exact: held-out lines of one item that are right as a whole.",
    )  # fmt: skip
