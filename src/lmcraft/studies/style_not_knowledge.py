"""Style, not knowledge: what supervised fine-tuning changes, and what it leaves as it was.

A small model reads invented facts as plain sentences. Then it is fine-tuned on conversations about a few of them and
about some new ones, each of which it sees a few times. On the way three things are measured:

    form    how many answers to questions end by themselves and have the form of the conversations
    facts   how many facts it repeats when a sentence is to be gone on with, as it has always done
    talk    how many facts it names in its answers, whatever their form

1. Four groups of facts: told in pre-training and never asked in fine-tuning (what the claim is about); told and asked;
   new in fine-tuning; never told, which shows what guessing gives.
2. Questions about facts of the fine-tuning data are asked as they were there; for the form, only facts that were not in
   it count.
3. Every seed has a world, weights and an order of its own; lines are means, shaded is from the lowest to the highest.

Proved by tests/unit/studies/test_style_not_knowledge.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from pydantic import Field

from ..data.facts import VALUES, Fact, World, invent
from ..generate.language_model import LanguageModel
from ..models import decoder
from ..models.model import count_parameters
from ..report.finding import Figure, Finding, Line, Panel, Table
from ..train import loop
from . import corpus, stream
from .knowledge import complete, conversation, converse, mentions, texts, tokenizer
from .study import Settings

QUESTION = "What does fine-tuning on conversations teach: form or facts?"
GROUPS = {
    "known": "told in pre-training only",
    "asked": "told, and asked in fine-tuning",
    "new": "new in fine-tuning",
    "never": "never told",
}


class Config(Settings):
    """Facts, the model, and how long each stage is."""

    known: int = Field(
        100, gt=0, description="facts of pre-training that fine-tuning never asks for; as many never told"
    )
    asked: int = Field(
        100, gt=0, description="facts of pre-training that fine-tuning asks for; as many are new in it"
    )
    told: int = Field(64, gt=0, description="times that pre-training tells each fact")
    mentions: int = Field(
        8000, ge=0, description="texts of pre-training that name something and tell nothing of it"
    )
    width: int = Field(128, gt=0)
    layers: int = Field(2, gt=0)
    batch_size: int = Field(8, gt=0, description="rows of 128 tokens of a step of pre-training")
    epochs: float = Field(8, gt=0, description="times that fine-tuning shows each conversation")
    sft_batch_size: int = Field(4, gt=0, description="rows of 128 tokens of a step of fine-tuning")
    lr: float = Field(2e-3, gt=0, description="of pre-training")
    sft_lr: float = Field(3e-4, gt=0)
    seeds: int = Field(2, ge=1, description="worlds")
    measures: int = Field(10, ge=1, description="points on the curves")


@dataclass(frozen=True)
class Point:
    """What was measured after some steps of fine-tuning: shares, by the group of the facts."""

    step: int
    epoch: float
    form: float
    facts: dict[str, float]
    talk: dict[str, float]


@dataclass
class Life:
    """One seed: the points of its fine-tuning, the first before it."""

    points: list[Point] = field(default_factory=list)
    parameters: int = 0
    pretraining_steps: int = 0


def run(config: Config) -> Finding:
    """Pre-trains and fine-tunes a model for each seed."""
    lives = [_live(config, config.seed + number) for number in range(config.seeds)]
    return _finding(config, lives)


def _live(config: Config, seed: int) -> Life:
    world = invent(2 * config.known + 2 * config.asked, seed)
    groups = grouped(config, world)
    lm = corpus.fresh(
        decoder.Config(layers=config.layers, width=config.width, heads=4, context=128), seed, tokenizer(world)
    )
    life = Life(parameters=count_parameters(lm.model))
    told = texts(
        {config.told: [*groups["known"], *groups["asked"]]}, seed, mentions(world, config.mentions, seed)
    )
    training = loop.Config(batch_size=config.batch_size, lr=config.lr)
    life.pretraining_steps = stream.finish(
        corpus.fit(lm, corpus.Lesson("pretrain", told, 128), training, seed, f"pre-training, seed {seed}")
    ).number
    life.points.append(_measure(lm, world, groups, 0, 0.0))
    chats = [conversation(fact) for fact in [*groups["asked"], *groups["new"]]]
    training = loop.Config(batch_size=config.sft_batch_size, lr=config.sft_lr, epochs=config.epochs)
    for step in corpus.fit(lm, corpus.Lesson("sft", chats, 128), training, seed, f"fine-tuning, seed {seed}"):
        if step.number in due(step.steps, config.measures):
            life.points.append(_measure(lm, world, groups, step.number, step.epoch))
    return life


def grouped(config: Config, world: World) -> dict[str, list[Fact]]:
    """The facts of each group."""
    groups, start = {}, 0
    for name in GROUPS:
        size = config.known if name in ("known", "never") else config.asked
        groups[name] = world.facts[start : start + size]
        start += size
    return groups


def due(steps: int, measures: int) -> set[int]:
    """Steps after which to measure: close together at first, when the form is learnt, and the last."""
    return {max(1, round(steps * ((n + 1) / measures) ** 2)) for n in range(measures)}


def _measure(
    lm: LanguageModel, world: World, groups: dict[str, list[Fact]], step: int, epoch: float
) -> Point:
    said = {name: converse(lm, world, facts) for name, facts in groups.items()}
    unasked = [said[name].well_formed for name in ("known", "never")]
    return Point(
        step, epoch, sum(unasked) / len(unasked),
        {name: complete(lm, world, facts).right for name, facts in groups.items()},
        {name: answers.right for name, answers in said.items()},
    )  # fmt: skip


def _finding(config: Config, lives: list[Life]) -> Finding:
    first, last = ([life.points[place] for life in lives] for place in (0, -1))
    numbers: dict[str, float | int | str | None] = {
        "form_before": mean(p.form for p in first), "form_after": mean(p.form for p in last),
        "chance": 1 / VALUES, "seeds": config.seeds, "parameters": lives[0].parameters,
        "pretraining_steps": lives[0].pretraining_steps, "sft_steps": last[0].step,
    }  # fmt: skip
    for name in GROUPS:
        for what in ("facts", "talk"):
            for when, points in (("before", first), ("after", last)):
                numbers[f"{what}_{name}_{when}"] = mean(getattr(p, what)[name] for p in points)
    return Finding(
        claim=_claim(numbers),
        numbers=numbers,
        figures=[_figure(lives)],
        tables=[_table(first, last)],
        method=[
            f"A model of {lives[0].parameters:,} parameters read {config.known + config.asked} invented facts "
            f"{config.told} times each, as plain sentences told in three ways, among {config.mentions:,} texts that "
            f"name things without facts, from which it learns to repeat a name ({lives[0].pretraining_steps:,} steps), "
            f"and was then fine-tuned with the stage `sft` on {2 * config.asked} conversations of one question and one "
            f"answer, {config.epochs:g} times each ({last[0].step} steps).",
            "An answer is well formed if it ends by itself and consists of the greeting and one sentence about what "
            "was asked; whether the sentence is true does not matter. Only questions that were not in the "
            "conversations count.",
            f"A fact is known if the greedy continuation of its sentence begins with its value, one of {VALUES}; in a "
            "conversation, if the answer names it anywhere.",
            f"{config.seeds} seeds: each has other facts and other weights.",
        ],
        limits=[
            f"The new facts were shown {config.epochs:g} times each. Shown as often as pre-training tells its facts, "
            "they would be learnt as well: fine-tuning data are few, that is why they teach little.",
            "With a higher learning rate or more passes, fine-tuning also destroys knowledge; this one was short.",
        ],
    )  # fmt: skip


def mean(values) -> float:
    """The arithmetic mean."""
    listed = list(values)
    return sum(listed) / len(listed)


def _claim(numbers: dict) -> str:
    form, known, new = (
        " % to ".join(f"{100 * numbers[f'{what}_{when}']:.0f}" for when in ("before", "after"))
        for what in ("form", "facts_known", "facts_new")
    )
    return (
        f"Fine-tuning took the share of well-formed answers from {form} %; the facts that the model knew from "
        f"pre-training went from {known} %, those that only fine-tuning showed from {new} %."
    )


def _figure(lives: list[Life]) -> Figure:
    steps = [point.step for point in lives[0].points]

    def line(label: str, values: list[list[float]], kind: str = "line") -> Line:
        columns = list(zip(*values, strict=True))
        return Line(
            label=label, x=steps, y=[mean(column) for column in columns], low=[min(c) for c in columns],
            high=[max(c) for c in columns], kind=kind,
        )  # fmt: skip

    def by_group(what: str) -> list[Line]:
        return [
            line(label, [[getattr(point, what)[name] for point in life.points] for life in lives])
            for name, label in GROUPS.items()
        ]

    shared = {"x": "steps of fine-tuning", "percent": True, "y_range": (0, 1.05)}
    return Figure(
        name="style-not-knowledge",
        caption="First: answers to questions that were not in the conversations. Second: sentences from the plain "
        "texts, to be gone on with. Third: the same facts, asked for in a conversation. Mean and range of the seeds.",
        panels=[
            Panel(
                title="Form", y="answers that are well formed",
                lines=[line("well formed", [[point.form for point in life.points] for life in lives])], **shared,
            ),
            Panel(title="Facts in plain text", y="facts repeated", lines=by_group("facts"), **shared),
            Panel(title="Facts in conversation", y="facts named", lines=by_group("talk"), **shared),
        ],
    )  # fmt: skip


def _table(first: list[Point], last: list[Point]) -> Table:
    def cell(values: list[float]) -> str:
        spread = f" ({100 * min(values):.0f}–{100 * max(values):.0f})" if len(values) > 1 else ""
        return f"{100 * mean(values):.0f} %{spread}"

    rows: list = [["well-formed answers", cell([p.form for p in first]), cell([p.form for p in last])]]
    for what, title in (("facts", "plain text"), ("talk", "conversation")):
        rows += [
            [
                f"facts {label}, {title}",
                *(cell([getattr(p, what)[name] for p in points]) for points in (first, last)),
            ]
            for name, label in GROUPS.items()
        ]
    return Table(
        title="Before and after fine-tuning", headings=["", "before", "after"], rows=rows,
        note="Mean of the seeds, and from the lowest to the highest.",
    )  # fmt: skip
