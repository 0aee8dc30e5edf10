"""The table, the figure and the page of a comparison.

Proved by tests/unit/compare/test_verdict.py and tests/cli/test_compare.py.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..report import words
from ..report.finding import Figure, Finding, Line, Panel, Table
from .trials import Outcome
from .verdict import Group, Verdict

HEADINGS = [
    "setting",
    "held-out loss",
    "± seeds",
    "trained",
    "peak memory, GB",
    "minutes",
    "kept, MB",
    "runs",
]


def finding(verdict: Verdict, outcomes: Sequence[Outcome]) -> Finding:
    """What the comparison found, for the page."""
    failed = [outcome for outcome in outcomes if outcome.failure]
    chosen, seeds = verdict.chosen, max(len(group.losses) for group in verdict.groups)
    return Finding(
        claim=f"Take {chosen.label}: {verdict.reason}. Held-out loss {_loss(chosen)}, peak memory "
        f"{chosen.peak_memory_bytes / 1e9:.2f} GB, {words.duration(chosen.seconds)}.",
        numbers={f"{group.label}: held-out loss": round(group.loss, 4) for group in verdict.groups},
        figures=[_figure(verdict)],
        tables=[Table(title="What was compared", headings=HEADINGS, rows=[_row(group) for group in verdict.groups],
                      note=f"On the front of loss and memory: {', '.join(verdict.front)}.")],
        method=[
            f"Each setting was trained {words.plural(seeds, 'time')}, each time in a process of its own, and peak "
            "memory is that of the whole process.",
            "Held-out loss is the mean over the same held-out rows, in nats per target, at the end of training.",
            "Recommended is what needs least memory, then least time, among the settings whose loss cannot be told "
            "from the lowest by twice the standard error of the difference.",
        ],
        limits=[
            *([] if seeds > 1 else ["One seed: how far chance moves these numbers was not measured, 1 % was assumed."]),
            "The time is that of this machine as busy as it was.",
            *[f"{outcome.trial.label} has no numbers: {outcome.failure}" for outcome in failed],
        ],
    )  # fmt: skip


def _figure(verdict: Verdict) -> Figure:
    costs = (
        ("peak memory, GB", "linear", lambda group: group.peak_memory_bytes / 1e9),
        ("trained parameters", "log", lambda group: float(group.trained)),
        ("minutes", "linear", lambda group: group.seconds / 60),
    )
    panels = [
        Panel(
            title=f"Loss against {name.partition(',')[0]}", x=name, y="held-out loss, nats", x_scale=scale,
            lines=[_point(group, cost(group)) for group in verdict.groups],
        )
        for name, scale, cost in costs
    ]  # fmt: skip
    return Figure(
        name="compare", panels=panels,
        caption="Lower and further left is better. A point is the mean over seeds, its bar one standard deviation.",
    )  # fmt: skip


def _point(group: Group, cost: float) -> Line:
    spread = group.spread or 0.0
    return Line(
        label=group.label,
        x=[cost],
        y=[group.loss],
        low=[group.loss - spread],
        high=[group.loss + spread],
        kind="points",
    )


def _row(group: Group) -> list[float | int | str | None]:
    spread = "–" if group.spread is None else f"{group.spread:.4f}"
    return [
        group.label, f"{group.loss:.4f}", spread, group.trained, f"{group.peak_memory_bytes / 1e9:.2f}",
        f"{group.seconds / 60:.1f}", f"{group.file_bytes / 1e6:.2f}", len(group.losses),
    ]  # fmt: skip


def _loss(group: Group) -> str:
    return f"{group.loss:.4f}" + ("" if group.spread is None else f" ± {group.spread:.4f}")
