"""The page of a round: what those who rate say, what the reward model says, how far the policy has gone, what it says.

Proved by tests/cli/test_rounds.py.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..feedback.simulated import NOTICE
from ..report import study
from ..report.finding import Figure, Finding, Line, Panel, Study, Table
from .settings import Config

SHOWN = 240  # characters of a text
QUESTION = "Has the policy become better, and does everybody think so, or only its reward model?"


def write(place: Path, config: Config, rounds: Sequence[dict[str, Any]], seconds: float) -> Path:
    """Writes report.html of the last of these rounds."""
    done = Study(
        name="feedback-round", question=QUESTION, finding=finding(rounds), config=config.model_dump(mode="json"),
        command=f"lmcraft feedback round --rounds {len(rounds)} --out {place.parent}", seconds=round(seconds, 1),
        **study.circumstances(("lmcraft", "torch")),
    )  # fmt: skip
    return study.write(place, done)


def finding(rounds: Sequence[dict[str, Any]]) -> Finding:
    """What the rounds show."""
    last = rounds[-1]
    limits = [f"over-optimised: {last['over_optimised']}"] if last.get("over_optimised") else []
    return Finding(
        claim=_claim(last),
        numbers={
            "win rate against the base": last["win_rate"], "KL to the base, nats": last["kl"],
            "reward model, base": last["proxy"][0], "reward model, policy": last["proxy"][1],
            "answers that stop": last["stopped"][1],
        },
        figures=[_figure(rounds)],
        tables=[_table(rounds), _samples(last)],
        method=[
            "Base and policy answer the same held-out prompts, which nothing was trained on; those who rate see both.",
            "Each policy is trained from the base with the votes of all rounds; KL is that of its last rollouts, "
            "summed over the tokens of an answer.",
            "The probability p is that of a difference as large if base and policy were the same (sign-flip test).",
        ],
        limits=[*limits, *([NOTICE] if last["simulated"] else [])],
    )  # fmt: skip


def _claim(last: dict[str, Any]) -> str:
    who = f"the rule {last['rater']} prefers" if last["simulated"] else "people prefer"
    said = (
        "no vote was cast"
        if last["win_rate"] is None
        else f"{who} the policy in {last['win_rate']:.0%} of the cases"
    )
    gold = ""
    if last["gold"] is not None:
        gold = f"; gold went from {last['gold'][0]:.3f} to {last['gold'][1]:.3f} (p = {last['p']:.2g})"
    kl = "" if last["kl"] is None else f", {last['kl']:.1f} nats from the base"
    return f"Round {last['round']}: {said}{kl}{gold}."


def _figure(rounds: Sequence[dict[str, Any]]) -> Figure:
    names = [f"round {one['round']}" for one in rounds]
    half, rates = [one["half_width"] or 0.0 for one in rounds], [one["win_rate"] for one in rounds]
    golds = [one["gold"] for one in rounds]

    def bars(label: str, values: list[float | None], widths: list[float] | None = None) -> Line:
        ends = widths or [0.0] * len(values)
        low, high = ([(v or 0.0) + sign * w for v, w in zip(values, ends, strict=True)] for sign in (-1, 1))
        spread = {"low": low, "high": high} if widths else {}
        return Line(label=label, x=names, y=values, kind="bars", **spread)

    gains = [bars("reward model", [one["proxy"][1] - one["proxy"][0] for one in rounds])]
    if all(golds):
        gains.append(bars("gold", [policy - base for base, policy in golds]))
    panels = [
        Panel(title="Preferred to the base", x="", y="share of held-out prompts", percent=True,
              levels={"as good as the base": 0.5}, lines=[bars("policy", rates, half)]),
        Panel(title="Proxy and gold", x="", y="gain over the base", lines=gains),
        Panel(title="How far it went", x="", y="KL to the base, nats",
              lines=[bars("policy", [one["kl"] for one in rounds])]),
    ]  # fmt: skip
    return Figure(
        name="rounds", caption="Whiskers are 95 % intervals over the held-out prompts.", panels=panels
    )


def _table(rounds: Sequence[dict[str, Any]]) -> Table:
    headings = [
        "round",
        "preferences",
        "reward model right",
        "proxy gain",
        "gold gain",
        "p",
        "win rate",
        "KL",
        "stop",
    ]
    rows = [
        [
            one["round"], one["preferences"], _number(one["reward_model"].get("accuracy"), ".0%"),
            f"{one['proxy'][1] - one['proxy'][0]:+.2f}",
            "–" if one["gold"] is None else f"{one['gold'][1] - one['gold'][0]:+.3f}", _number(one["p"], ".2g"),
            _number(one["win_rate"], ".0%"), _number(one["kl"], ".2f"), f"{one['stopped'][1]:.0%}",
        ] for one in rounds
    ]  # fmt: skip
    return Table(title="All rounds", headings=headings, rows=rows)


def _samples(last: dict[str, Any]) -> Table:
    rows = [[_short(one[name]) for name in ("prompt", "base", "policy")] for one in last["samples"]]
    headings = ["prompt", "base", "policy"]
    return Table(title="The same held-out prompts", headings=headings, rows=rows, prose=True)


def _short(text: str) -> str:
    return textwrap.shorten(text, SHOWN, placeholder=" …")


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)
