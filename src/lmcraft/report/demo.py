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
    """One stage: its own page, its curve, its data, and its cells of the table in the order of `COLUMNS`."""

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
class Column:
    """A column of the table: key in the summary, heading, and how a value is written."""

    key: str
    heading: str
    write: Callable[[Any], str]


COLUMNS = (
    Column("seconds", "time", words.duration),
    Column("tokens", "trained tokens", words.short),
    Column("parameters", "parameters", words.short),
    Column("loss", "loss, nats per token", words.nats),
    Column("bits_per_byte", "bits per byte, held out", words.nats),
    Column("share_stopped", "answers that end by themselves", lambda value: words.share(value, 1)),
    Column("peak_memory_bytes", "peak memory", words.size),
)
DRAWN = {
    "seconds": "how long each stage took",
    "bits_per_byte": "on held-out data; less is better, and tokenizers do not matter",
    "share_stopped": "the model says itself that its turn is over",
}


def story(directory: Path, summary: dict[str, Any], runs: Sequence[Run]) -> dict[str, Any]:
    """Everything that the template `demo.jinja` shows."""
    found = {run.name: reading.read(run) for run in runs}
    values = _values(summary, found)
    chats = _chats(summary)
    tuned = next((facts for facts in reversed(found.values()) if facts.stage == "sft"), None)
    seconds = [s for v in values.values() if (s := words.number(v.get("seconds"))) is not None]
    whole = words.number(summary.get("seconds"))
    return {
        "name": directory.resolve().name,
        "stages": [_stage(directory, name, v, found.get(name)) for name, v in values.items()],
        "columns": [column.heading for column in COLUMNS],
        "bars": [drawn for column in COLUMNS if column.key in DRAWN and (drawn := _bars(column, values))],
        "chats": chats,
        "sampling": samples.settings(tuned) if tuned else "",
        "preview": tokens.rows(tuned.data.get("preview")) if tuned else [],
        "command": _command(directory, summary, tuned),
        "time": words.duration(whole if whole is not None else sum(seconds)) if seconds or whole is not None else "",
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
    losses = facts.column("eval_loss") or facts.column("loss")
    return {
        "seconds": facts.state.get("seconds"), "tokens": facts.tokens_trained, "parameters": facts.state.get("parameters"),
        "loss": losses[-1] if losses else None, "peak_memory_bytes": stories.peak_memory_bytes(facts),
    }  # fmt: skip


def _stage(directory: Path, name: str, values: dict[str, Any], facts: Facts | None) -> Stage:
    cells = [column.write(values.get(column.key)) for column in COLUMNS]
    if facts is None:
        return Stage(name, name, None, [], cells, None, None)
    beside = facts.run.path.resolve().parent == directory.resolve()
    link = f"{quote(facts.run.name)}/report.html" if beside else None
    return Stage(
        name, stories.title(facts), link, stories.sentences(facts), cells, figures.loss(facts, f"stage-{len(name)}-{_id(name)}"),
        statistics(facts),
    )  # fmt: skip


def _id(name: str) -> str:
    """Letters and digits of a name, for the ids of its figure."""
    return "".join(c if c.isascii() and c.isalnum() else "-" for c in name)


def _bars(column: Column, values: dict[str, dict[str, Any]]) -> Bars | None:
    known = {name: n for name, v in values.items() if (n := words.number(v.get(column.key))) is not None and n >= 0}
    if not known:
        return None
    longest = 1.0 if column.key == "share_stopped" else max(known.values()) or 1.0
    bars = [(name, column.write(n), round(100 * min(1.0, n / longest), 2)) for name, n in known.items()]
    return Bars(column.heading, DRAWN[column.key], bars)


def _chats(summary: dict[str, Any]) -> list[samples.Sample]:
    listed = summary.get("chats")
    chats = [mapping(chat) for chat in listed] if isinstance(listed, list) else []
    labels = (("base", "base model, before fine-tuning"), ("chat", "chat model, after fine-tuning"))
    return [
        samples.Sample(
            str(chat.get("prompt", "")), [samples.answer(label, chat[key]) for key, label in labels if key in chat]
        )
        for chat in chats
    ]


def _command(directory: Path, summary: dict[str, Any], tuned: Facts | None) -> str:
    told = summary.get("next")
    if isinstance(told, str) and told:
        return told
    return shlex.join(["lmcraft", "chat", str(tuned.run.path if tuned else directory / "sft")])
