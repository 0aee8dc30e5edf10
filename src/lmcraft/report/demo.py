"""The story of a demo: its stages compared, and the base model beside the chat model on the same prompts.

Proved by tests/unit/report/test_demo_page.py.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ..core.run import Run
from . import facts as reading
from . import figures, samples, tokens, words
from . import story as stories
from .facts import Facts, mapping
from .statistics import Statistics, statistics


@dataclass(frozen=True)
class Stage:
    """One stage: its own page, its curve, its data, and its cells of the table in the order of `QUANTITIES`."""

    name: str
    title: str
    link: str | None
    sentences: list[str]
    cells: list[str]
    figure: figures.Figure | None
    statistics: Statistics | None


@dataclass(frozen=True)
class Bars:
    """One quantity of all stages as bars: name, value in words, width in percent."""

    title: str
    remark: str
    bars: list[tuple[str, str, float]]


@dataclass(frozen=True)
class Quantity:
    """A row of the table: key in the summary, heading, and how a value is written."""

    key: str
    heading: str
    write: Callable[[Any], str]


QUANTITIES = (
    Quantity("seconds", "time", words.duration),
    Quantity("tokens", "trained tokens", words.short),
    Quantity("parameters", "parameters", words.short),
    Quantity("loss", "training loss", words.nats),
    Quantity("eval_loss", "held-out loss", words.nats),
    Quantity("bits_per_byte", "bits per byte, held out", words.nats),
    Quantity("share_stopped", "answers that end by themselves", lambda value: words.share(value, 1)),
    Quantity("upbeat", "how upbeat answers are (VADER, −1 to 1)", words.nats),
    Quantity("peak_memory_bytes", "peak memory", words.size),
)
DRAWN = {
    "seconds": "how long each stage took",
    "bits_per_byte": "less is better, and the tokenizer does not matter",
    "share_stopped": "the model says itself that its turn is over",
}


def story(directory: Path, summary: dict[str, Any], runs: Sequence[Run]) -> dict[str, Any]:
    """Everything that the template `demo.jinja` shows."""
    told = list(mapping(summary.get("stages")))
    names = told if len(told) == len(runs) else [run.name for run in runs]
    found = {str(name): reading.read(run) for name, run in zip(names, runs, strict=True)}
    values = _values(summary, found)
    tuned = next((facts for facts in reversed(found.values()) if facts.stage == "sft"), None)
    return {
        "name": directory.resolve().name,
        "stages": [
            _stage(directory, name, f"stage-{place}", value, found.get(name))
            for place, (name, value) in enumerate(values.items())
        ],
        "headings": [quantity.heading for quantity in QUANTITIES],
        "notes": _notes(values),
        "bars": [bars for quantity in QUANTITIES if (bars := _bars(quantity, values))],
        "chats": _chats(summary),
        "upbeat": _upbeat(summary),
        "preview": tokens.rows(tuned.data.get("preview")) if tuned else [],
        "command": _command(directory, summary, tuned),
        "time": words.duration(summary.get("seconds")),
        "problems": [f"{name}/{problem}" for name, facts in found.items() for problem in facts.problems],
    }


def _values(summary: dict[str, Any], found: dict[str, Facts]) -> dict[str, dict[str, Any]]:
    """The summary of each stage; what it leaves out is taken from the run."""
    told = {str(name): mapping(value) for name, value in mapping(summary.get("stages")).items()}
    return {
        name: {**(_measured(found[name]) if name in found else {}), **told.get(name, {})}
        for name in dict.fromkeys([*told, *found])
    }


def _measured(facts: Facts) -> dict[str, Any]:
    losses, held = facts.column("loss"), facts.column("eval_loss")
    return {
        "seconds": facts.state.get("seconds"),
        "tokens": facts.tokens_trained,
        "parameters": facts.state.get("parameters"),
        "loss": losses[-1] if losses else None,
        "eval_loss": held[-1] if held else None,
        "peak_memory_bytes": stories.peak_memory_bytes(facts),
    }


def _stage(directory: Path, name: str, figure: str, values: dict[str, Any], facts: Facts | None) -> Stage:
    cells = [quantity.write(values.get(quantity.key)) for quantity in QUANTITIES]
    if facts is None:
        return Stage(name, name, None, [], cells, None, None)
    run, here = facts.run.path.resolve(), directory.resolve()
    link = f"{quote(run.relative_to(here).as_posix())}/report.html" if run.is_relative_to(here) else None
    curve = figures.first(facts, figure)
    return Stage(name, stories.title(facts), link, stories.sentences(facts), cells, curve, statistics(facts))


def _scored(values: dict[str, dict[str, Any]]) -> dict[str, list[str]]:
    """What the bits per byte are of, and the stages that it is said of."""
    found: dict[str, list[str]] = {}
    for name, value in values.items():
        if value.get("bits_per_byte") is not None and value.get("bits_per_byte_of"):
            found.setdefault(str(value["bits_per_byte_of"]), []).append(name)
    return found


def _notes(values: dict[str, dict[str, Any]]) -> list[str]:
    """What a reader must know before comparing the stages."""
    notes = []
    if len(values) > 1:
        notes.append(
            "Losses are in nats per token, of the tokens that a stage trains: all of them in pre-training, only the "
            "answers in fine-tuning. So they cannot be compared across stages."
        )
    scored = _scored(values)
    if scored:
        said = "; ".join(f"{', '.join(names)}: {what}" for what, names in scored.items())
        notes.append(f"Bits per byte are of held-out records ({said}).")
    if len(scored) > 1:
        notes.append("The bits per byte are of different bytes, so they cannot be compared either.")
    return notes


def _bars(quantity: Quantity, values: dict[str, dict[str, Any]]) -> Bars | None:
    if quantity.key not in DRAWN or (quantity.key == "bits_per_byte" and len(_scored(values)) > 1):
        return None  # bars invite to compare, which bits of different bytes do not allow
    numbers = {name: words.number(value.get(quantity.key)) for name, value in values.items()}
    known = {name: number for name, number in numbers.items() if number is not None and number >= 0}
    if not known:
        return None
    longest = 1.0 if quantity.key == "share_stopped" else max(known.values()) or 1.0
    bars = [(name, quantity.write(n), round(100 * min(1.0, n / longest), 2)) for name, n in known.items()]
    return Bars(quantity.heading, DRAWN[quantity.key], bars)


def _upbeat(summary: dict[str, Any]) -> str:
    """Whether learning from votes did what those who voted like; empty where nobody did."""
    found = mapping(summary.get("upbeat"))
    difference, p = words.number(found.get("difference")), words.number(found.get("p"))
    if difference is None or p is None:
        return ""
    return (
        f"Learning from votes changed how upbeat answers to held-out messages are by {difference:+.3f} "
        f"(p = {p:.2g}, the chance of a difference as large if it had changed nothing)."
    )


def _chats(summary: dict[str, Any]) -> list[samples.Sample]:
    listed = summary.get("chats")
    chats = [mapping(chat) for chat in listed] if isinstance(listed, list) else []
    labels = (
        ("base", "base model, before fine-tuning"), ("chat", "chat model, after fine-tuning"),
        ("ppo", "chat model, after learning from votes"),
    )  # fmt: skip
    return [
        samples.Sample(
            str(chat.get("prompt", "")),
            [samples.answer(label, chat[key]) for key, label in labels if key in chat],
        )
        for chat in chats
    ]


def _command(directory: Path, summary: dict[str, Any], tuned: Facts | None) -> str:
    told = summary.get("next")
    if isinstance(told, str) and told:
        return told
    return shlex.join(["lmcraft", "chat", str(tuned.run.path if tuned else directory / "sft")])
