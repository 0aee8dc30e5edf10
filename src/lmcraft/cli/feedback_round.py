"""Rounds of feedback at the terminal: sample, vote, reward model, PPO, compare, and again.

Proved by tests/cli/test_rounds.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..core.log import say
from . import settings as s
from .follow import follow
from .output import emit, table


def round_(
    settings: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE…", help="base=, data=, rater=, prompts=, …")
    ] = None,
    out: Annotated[Path, typer.Option(help="Where everything goes; unfinished rounds there go on.")] = Path(
        "runs/rounds"
    ),
    rounds: Annotated[int, typer.Option(min=1, help="How many rounds there should be in the end.")] = 1,
    stop_when_worse: Annotated[
        bool, typer.Option("--stop-when-worse", help="End when the reward model is pleased and nobody else is.")
    ] = False,
    db: Annotated[
        str | None, typer.Option("--db", help="A file or postgresql://…; default: OUT/feedback.db.")
    ] = None,
    as_json: s.AsJson = False,
) -> None:  # fmt: skip
    """Make a model better by what raters prefer: `lmcraft feedback round base=runs/sft data=chats.jsonl rater=vader`.

    A round draws two answers to each prompt, waits until they are rated (by people with `lmcraft feedback rate`, or by
    a rule), trains a reward model on all votes so far and a policy by PPO, and lets the raters compare it with the base
    on held-out prompts. Every step is kept; `lmcraft feedback round --out DIR` goes on.
    """
    from ..core import config
    from ..feedback.opening import open_store

    with open_store(db or str(out / "feedback.db")) as store:
        from ..rounds import rounds as performing
        from ..rounds.settings import Config

        noted = out / "rounds.json"
        document = config.read(noted if noted.exists() and not settings else None, settings or [])
        asked = config.validate(Config, document)
        finished, waiting = performing.perform(asked, out, rounds, store, follow, stop_when_worse)
        database = store.database.name
    result: dict[str, Any] = {
        "directory": str(out), "database": database, "rounds": finished,
        "waiting": None if waiting is None else waiting.plain(),
    }  # fmt: skip
    emit(result, as_json, lambda: _tell(result))


def _tell(result: dict[str, Any]) -> None:
    if result["rounds"]:
        rows = [
            [one["round"], one["preferences"], one["win_rate"], one["kl"], one["proxy"][1] - one["proxy"][0],
             None if one["gold"] is None else one["gold"][1] - one["gold"][0]] for one in result["rounds"]
        ]  # fmt: skip
        print(table(["round", "preferences", "win rate", "KL, nats", "proxy gain", "gold gain"], rows))
        last = result["rounds"][-1]
        say(f"report: {result['directory']}/round-{last['round']}/report.html")
        say(f"next:   lmcraft chat {last['lineage']['policy']}")
    if result["waiting"]:
        waiting = result["waiting"]
        print(
            f"{waiting['items']} items wait for raters:\n"
            f"  lmcraft feedback rate {waiting['project']} --rater YOUR-NAME --db {result['database']}\n"
            "then the same command again"
        )
