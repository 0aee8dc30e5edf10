"""What the model said before and after training, put side by side by prompt.

Proved by tests/unit/report/test_samples.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from . import words
from .facts import Facts, mapping


@dataclass(frozen=True)
class Answer:
    """One answer: who or when (`label`), its text, and how it ended in words; `stopped` by itself, or cut off."""

    label: str
    text: str
    ending: str
    stopped: bool


@dataclass(frozen=True)
class Sample:
    """A prompt and the answers to compare."""

    prompt: str
    answers: list[Answer]


def before_after(facts: Facts) -> list[Sample]:
    """The earliest and the latest answer to each prompt; one answer where there is only one step."""
    by_prompt: dict[str, dict[int, Any]] = {}
    for row in facts.samples:
        step = words.number(row.get("step"))
        if step is not None:
            by_prompt.setdefault(str(row.get("prompt", "")), {})[int(step)] = row
    limit = facts.setting("sample", "max_new_tokens")
    found = []
    for prompt, rows in by_prompt.items():
        steps = sorted({min(rows), max(rows)})
        answers = [answer(_when(facts, step), rows[step], limit) for step in steps]
        found.append(Sample(prompt, answers))
    return found


def _when(facts: Facts, step: int) -> str:
    if step == 0:
        return "before training" + (", the base" if facts.setting("base") else ", random weights")
    return f"after {words.plural(step, 'step')}"


def answer(label: str, row: Any, limit: Any = None) -> Answer:
    """An answer from a row with `text` and `finish_reason`."""
    row = mapping(row)
    reason = row.get("finish_reason")
    if reason == "stop":
        ending = "stopped by itself"
    elif reason == "length":
        known = words.number(limit) is not None
        ending = f"cut off at the limit{f' of {words.count(limit)} tokens' if known else ''}"
    else:
        ending = "how it ended is not known" if reason is None else str(reason)
    text = row.get("text")
    return Answer(label, "" if text is None else str(text), ending, reason == "stop")


def settings(facts: Facts) -> str:
    """How the answers were sampled."""
    temperature, limit = facts.setting("sample", "temperature"), facts.setting("sample", "max_new_tokens")
    parts = [] if words.number(temperature) is None else [f"temperature {words.decimal(temperature)}"]
    parts += [] if words.number(limit) is None else [f"at most {words.plural(limit, 'token')}"]
    return ", ".join(parts)
