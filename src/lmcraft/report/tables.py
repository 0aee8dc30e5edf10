"""The tables at the end of the page: evaluations, time and memory, lineage.

Proved by tests/unit/report/test_page.py.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import Any

from . import words
from .facts import Ancestor, Facts, mapping
from .story import peak_memory_bytes


@dataclass(frozen=True)
class Evaluation:
    """One evaluation: metrics as name and value, settings and files in words."""

    name: str
    metrics: list[tuple[str, str]]
    settings: str
    files: str


@dataclass(frozen=True)
class Lineage:
    """Where the run comes from: ancestors, and facts as label and value."""

    ancestors: list[Ancestor]
    rows: list[tuple[str, str]]


def evaluations(facts: Facts) -> list[Evaluation]:
    """Everything in evals/."""
    found = []
    for name, content in facts.evals.items():
        metrics = [(str(metric), _value(value)) for metric, value in mapping(content.get("metrics")).items()]
        settings = [f"{key} {_value(value)}" for key, value in mapping(content.get("settings")).items()]
        files = content.get("files")
        named = [str(file) for file in files] if isinstance(files, list) else []
        found.append(Evaluation(name, metrics, ", ".join(settings), ", ".join(named)))
    return found


def _value(value: Any) -> str:
    return words.decimal(value) if words.number(value) is not None else str(value)


def resources(facts: Facts) -> list[tuple[str, str]]:
    """Time, speed and memory, as label and value; what is not known is left out."""
    seconds, steps = words.number(facts.state.get("seconds")), facts.step
    speeds = sorted(facts.column("tokens_per_second"))
    found = [
        ("Time in all", words.duration(seconds)),
        ("Time a step", words.duration(seconds / steps) if seconds is not None and steps else words.UNKNOWN),
        ("Tokens read", words.count(facts.tokens_read)),
        ("Tokens trained (targets)", words.count(facts.tokens_trained)),
        ("Tokens per second, median", words.count(speeds[len(speeds) // 2] if speeds else None)),
        ("Tokens per second, over all the time", words.count(_over_all(facts.tokens_read, seconds))),
        ("Parameters", words.count(facts.state.get("parameters"))),
        ("Peak memory of the process", words.size(peak_memory_bytes(facts))),
        *_memory(facts),
        *_quantized(facts),
        ("Precision", str(facts.setting("train", "precision") or words.UNKNOWN)),
    ]
    return [row for row in found if row[1] != words.UNKNOWN]


def _memory(facts: Facts) -> list[tuple[str, str]]:
    """What training took above an empty process, measured and as `lmcraft plan` predicts it."""
    peak, before, predicted = (
        words.number(value)
        for value in (
            peak_memory_bytes(facts), facts.state.get("memory_before_bytes"), facts.state.get("predicted_memory_bytes")
        )
    )  # fmt: skip
    if peak is None or before is None or predicted is None or peak <= before:
        return []
    off = (predicted - (peak - before)) / (peak - before)
    return [
        ("Peak memory above the start, measured", words.size(peak - before)),
        ("Peak memory above the start, predicted", f"{words.size(predicted)} ({off:+.0%})"),
    ]


def _quantized(facts: Facts) -> list[tuple[str, str]]:
    """Every quantized layer: its size now, and how far its weights are from what they were."""
    layers = facts.data.get("quantized")
    rows = [layer for layer in (layers if isinstance(layers, list) else []) if isinstance(layer, dict)]
    return [
        (
            f"Quantized: {layer.get('path')}",
            f"{words.size(layer.get('dense_bytes'))} → {words.size(layer.get('bytes'))}, error "
            f"{words.share(layer.get('relative_rms'), 1)} of the weights' RMS",
        )
        for layer in rows
    ]


def _over_all(tokens: float | None, seconds: float | None) -> float | None:
    return tokens / seconds if tokens is not None and seconds else None


def lineage(facts: Facts) -> Lineage:
    """What origin.json says."""
    origin = facts.origin
    command = origin.get("command")
    packages = mapping(origin.get("packages"))
    rows = [
        ("Created", origin.get("created")),
        ("Command", shlex.join(str(word) for word in command) if isinstance(command, list) else command),
        ("Seed", origin.get("seed")),
        ("Code", _digest(origin.get("code"))),
        ("Packages", ", ".join(f"{name} {version}" for name, version in packages.items())),
        ("Python", origin.get("python")),
        ("Machine", origin.get("platform")),
        ("Data (shard key)", _digest(facts.data.get("shard"))),
    ]
    return Lineage(facts.ancestors, [(label, str(value)) for label, value in rows if value not in (None, "")])


def _digest(value: Any) -> str | None:
    return str(value)[:12] if value else None
