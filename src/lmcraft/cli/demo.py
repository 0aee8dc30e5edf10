"""Demo: the whole life of a small model on real conversations, then a chat.

Proved by tests/cli/test_demo.py.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..core.errors import UserError
from ..core.log import say
from ..data import catalog, fetch, store
from .follow import follow
from .output import emit, table

if TYPE_CHECKING:
    from ..feedback.store import Project


def command(
    out: Annotated[Path, typer.Option(help="Where everything goes.")] = Path("runs/demo"),
    data: Annotated[
        str, typer.Option(help="A file of conversations, or a name that `lmcraft pull` knows.")
    ] = "chitchat",
    minutes: Annotated[
        float, typer.Option(min=0.1, help="About how long it may take on this machine.")
    ] = 12.0,
    steps: Annotated[
        str | None, typer.Option(help="PRETRAIN,SFT,PPO: steps of the stages, instead of a time.")
    ] = None,
    rater: Annotated[str, typer.Option(help="Who votes on answers: vader (a rule), or me.")] = "vader",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """The whole life of a small model: `lmcraft demo`, some minutes on two cores, no GPU.

    Real conversations are fetched, a tokenizer and a model are trained from nothing, the model is tuned to chat, learns
    from votes on its answers (a reward model, then PPO), all are measured, and a page tells the story. With --rater me
    it is you who votes.
    """
    if rater not in ("vader", "me"):
        raise UserError(f"{rater!r} cannot vote", where="option --rater", fix="say vader or me")
    numbers = None if steps is None else _numbers(steps)
    entry = catalog.ENTRIES.get(data)
    if entry is not None and entry.kind == "data" and not store.has(data):
        say(f"fetching {data} ({entry.licence}): {entry.what}")
        fetch.pull(entry)
    from .. import demo

    given = None if numbers is None else demo.Steps(*numbers)
    summary = demo.run(out, data, minutes, given, follow, _ask if rater == "me" else None)
    emit(summary, as_json, lambda: _tell(summary, out))


def _ask(project: Project) -> None:
    """Lets whoever sits at the terminal vote."""
    from ..feedback.opening import open_store
    from .asking import Session

    with open_store(project.database.name) as store:
        Session(store.project(project.name), store.rater("me"), sys.stdout).run()


def _numbers(steps: str) -> list[int]:
    """The numbers of `--steps`."""
    words = [word.strip() for word in steps.split(",")]
    if len(words) not in (2, 3) or not all(word.isdecimal() and 0 < int(word) < 10**9 for word in words):
        raise UserError(
            f"{steps!r} is not two or three numbers of steps",
            where="option --steps",
            fix="for example --steps 300,100,120",
        )
    return [int(word) for word in words]


def _tell(summary: dict[str, Any], out: Path) -> None:
    for chat in summary["chats"]:
        print(f"\n> {chat['prompt']}")
        for name, answer in chat.items():
            if name == "prompt":
                continue
            ended = (
                "stopped by itself" if answer["finish_reason"] == "stop" else "went on until it was cut off"
            )
            text = answer["text"].strip().replace("\n", "\n        ")
            print(f"  {name}: {text}   [{ended}]")
    rows = [
        [name, stage["seconds"], stage["tokens"], stage["parameters"], stage["bits_per_byte"],
         f"{100 * stage['share_stopped']:.0f} %", stage["upbeat"], f"{stage['peak_memory_bytes'] / 1e9:.2f} GB"]
        for name, stage in summary["stages"].items()
    ]  # fmt: skip
    headings = [
        "stage",
        "seconds",
        "trained tokens",
        "parameters",
        "bits/byte held out",
        "answers that stop",
        "upbeat, −1 to 1",
        "memory",
    ]
    print("\n" + table(headings, rows))
    if summary["upbeat"]:
        found = summary["upbeat"]
        print(
            f"\nfeedback changed how upbeat answers are by {found['difference']:+.3f} (p = {found['p']:.2g})"
        )
    print(f"\nreport:  {out / 'report.html'}\nto talk: {summary['next']}")
    say(f"finished in {summary['seconds'] / 60:.1f} minutes" if "seconds" in summary else "")
