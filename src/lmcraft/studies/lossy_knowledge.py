"""Lossy knowledge: how often a model must have read a fact before it can repeat it, for models of several sizes.

Invented facts are told 1, 2, 4, … times among each other in one pass of pre-training. Afterwards each is asked for as a
sentence to go on with; facts that were never told show what a model says when it knows nothing.

1. All models read the same texts in the same order. A fact is told in three ways, so what counts is that it was met,
   not that one string was.
2. The number of tellings at which half of the facts are known is read off between the two measured ones around it, on
   a logarithmic scale; where recall crosses one half more than once, at the first time.
3. Intervals are Wilson's, 95 %, over the facts of a group.

Proved by tests/unit/studies/test_lossy_knowledge.py.
"""

from __future__ import annotations

import math

from pydantic import Field

from ..data.facts import VALUES, World, invent
from ..models import decoder
from ..models.model import count_parameters
from ..report import words
from ..report.finding import Figure, Finding, Line, Panel, Table
from ..train import loop
from . import corpus
from .knowledge import Answers, complete, texts, tokenizer
from .study import Settings

QUESTION = "How often must a model read a fact to know it?"


class Config(Settings):
    """Facts, how often they are told, and the models."""

    facts: int = Field(60, gt=0, description="facts for each number of tellings")
    most: int = Field(
        512, ge=1, description="tellings of the most frequent facts; the numbers are powers of two"
    )
    widths: tuple[int, ...] = Field((32, 96, 256), min_length=1, description="of the models")
    layers: int = Field(2, gt=0)
    width_of_rows: int = Field(128, ge=64, description="tokens of a row of training")
    batch_size: int = Field(16, gt=0, description="rows of an optimizer step")
    lr: float = Field(2e-3, gt=0)


def run(config: Config) -> Finding:
    """Trains a model of each width on the same texts, and asks it for every fact."""
    times = [0, *tellings(config.most)]
    world = invent(config.facts * len(times), config.seed)
    groups = {count: world.facts[n * config.facts : (n + 1) * config.facts] for n, count in enumerate(times)}
    told = texts(groups, config.seed)
    names = tokenizer(world)
    found: dict[int, dict[int, Answers]] = {}
    steps, tokens = 0, 0
    for width in sorted(config.widths):
        shape = decoder.Config(layers=config.layers, width=width, heads=4, context=config.width_of_rows)
        lm = corpus.fresh(shape, config.seed, names)
        lesson = corpus.Lesson("pretrain", told, config.width_of_rows)
        training = loop.Config(batch_size=config.batch_size, lr=config.lr)
        tokens = 0
        for step in corpus.fit(lm, lesson, training, config.seed, f"width {width}"):
            steps, tokens = step.number, tokens + step.targets
        found[count_parameters(lm.model)] = {
            count: complete(lm, world, facts) for count, facts in groups.items()
        }
    return _finding(config, found, len(told), steps, tokens, world)


def tellings(most: int) -> list[int]:
    """1, 2, 4, … up to `most`."""
    return [2**power for power in range(most.bit_length()) if 2**power <= most]


def half_known(recall: dict[int, float]) -> float | None:
    """Tellings at which recall reaches one half, between those measured; None if it never does."""
    before: tuple[float, float] | None = None
    for count, share in sorted(recall.items()):
        if count and share >= 0.5:
            if before is None or before[0] == 0:
                return float(count)
            low, low_share = before
            part = (0.5 - low_share) / (share - low_share)
            return low * (count / low) ** part
        before = (count, share)
    return None


def interval(share: float, n: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's interval of a share of n (1927)."""
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)


def _finding(
    config: Config,
    found: dict[int, dict[int, Answers]],
    texts_told: int,
    steps: int,
    tokens: int,
    world: World,
) -> Finding:
    needed = {size: half_known({count: a.right for count, a in by.items()}) for size, by in found.items()}
    largest = max(found)
    never = found[largest][0]
    numbers: dict[str, float | int | str | None] = {
        "chance": 1 / VALUES, "facts_per_group": config.facts, "texts": texts_told, "tokens": tokens, "steps": steps,
        "made_up_when_never_told": never.plausible + never.right, "sureness_when_never_told": never.sureness,
        "sureness_when_told_most": found[largest][max(found[largest])].sureness,
    }  # fmt: skip
    for size, by in found.items():
        numbers[f"{size}_half_known"] = needed[size]
        numbers |= {f"{size}_recall_{count}": answers.right for count, answers in by.items()}
    return Finding(
        claim=_claim(config, found, needed),
        numbers=numbers,
        figures=[_figure(config, found)],
        tables=[_table(found, needed), _kinds(found[largest], largest)],
        method=[
            f"{config.facts} invented facts for each number of tellings, {len(world.facts)} in all, in "
            f"{texts_told:,} texts of one sentence, which each model read once in the same order: {tokens:,} tokens in "
            f"{steps:,} steps at a learning rate of {config.lr:g}.",
            "Each fact is told in one of three ways at random, and asked for as the beginning of the first; the answer "
            "is greedy, and right if its first word is the value.",
            f"A value is one of {VALUES}, so one guess in {VALUES} is right. Shaded: Wilson's 95 % interval over the "
            "facts of a group.",
        ],
        limits=[
            "One seed, one learning rate and one pass. How often a fact must be told depends on all of them, on how "
            "many others compete for the same parameters, and on how late in training it was told.",
            "The facts are strings without sense for the model, told in three ways. Real texts tell the same thing in "
            "many ways, and what they say follows in part from what else they say.",
        ],
    )  # fmt: skip


def _claim(config: Config, found: dict[int, dict[int, Answers]], needed: dict[int, float | None]) -> str:
    parts = []
    for size, count in needed.items():
        known = f"{count:.0f} tellings" if count is not None else f"more than {config.most} tellings"
        parts.append(f"{known} at {words.short(size)} parameters")
    never = found[max(found)][0]
    return (
        f"To know half of the facts a model needs {', '.join(parts)}; asked for facts that it was never told, the "
        f"largest names a plausible value in {100 * (never.plausible + never.right):.0f} % of its answers."
    )


def _figure(config: Config, found: dict[int, dict[int, Answers]]) -> Figure:
    def line(size: int, by: dict[int, Answers]) -> Line:
        counts = [count for count in by if count]
        spread = [interval(by[count].right, config.facts) for count in counts]
        return Line(
            label=f"{words.short(size)} parameters", x=counts, y=[by[count].right for count in counts],
            low=[low for low, _ in spread], high=[high for _, high in spread],
        )  # fmt: skip

    largest = found[max(found)]
    places = [str(count) for count in largest]
    kinds = {"right": "right", "plausible": "wrong, but plausible", "other": "anything else"}
    return Figure(
        name="lossy-knowledge",
        caption="Left: how many of the facts a model repeats, against how often it was told them; the dotted lines are "
        "one half, and what guessing gives. Right: what the largest model says; facts told 0 times were never in its "
        "texts.",
        panels=[
            Panel(
                title="Facts known", x="times told in pre-training", y="facts repeated", percent=True,
                x_scale="log2", y_range=(0, 1.05), levels={"half": 0.5, "chance": 1 / VALUES},
                lines=[line(size, by) for size, by in found.items()],
            ),
            Panel(
                title="What the largest model answers", x="times told in pre-training", y="answers", percent=True,
                y_range=(0, 1.05),
                lines=[
                    Line(label=label, x=places, y=[getattr(by, kind) for by in largest.values()], kind="bars")
                    for kind, label in kinds.items()
                ],
            ),
        ],
    )  # fmt: skip


def _table(found: dict[int, dict[int, Answers]], needed: dict[int, float | None]) -> Table:
    counts = list(next(iter(found.values())))
    return Table(
        title="Facts repeated, by times told",
        headings=["parameters", *map(str, counts), "half known at"],
        rows=[
            [f"{size:,}", *(f"{100 * by[count].right:.0f} %" for count in counts),
             None if needed[size] is None else f"{needed[size]:.0f}"]
            for size, by in found.items()
        ],
        note="Half known at: times told, read off between the measured ones.",
    )  # fmt: skip


def _kinds(by: dict[int, Answers], size: int) -> Table:
    return Table(
        title=f"What {words.short(size)} parameters answer",
        headings=["times told", "right", "wrong, but plausible", "anything else", "probability of the answer"],
        rows=[
            [
                str(count), f"{100 * a.right:.0f} %", f"{100 * a.plausible:.0f} %", f"{100 * a.other:.0f} %",
                f"{a.sureness:.2f}",
            ]
            for count, a in by.items()
        ],
        note="Plausible: a value that other facts of the same relation have. Probability: what the model itself gives "
        "its answer, on average.",
    )  # fmt: skip
