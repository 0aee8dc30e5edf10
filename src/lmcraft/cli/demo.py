"""Demo: the whole life of a small model on real conversations, then a chat.

Proved by tests/cli/test_demo.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..core.errors import UserError
from ..core.log import say
from ..data import catalog, fetch, store
from .follow import follow
from .output import emit, table


def command(
    out: Annotated[Path, typer.Option(help="Where everything goes.")] = Path("runs/demo"),
    data: Annotated[
        str, typer.Option(help="A file of conversations, or a name that `lmcraft pull` knows.")
    ] = "chitchat",
    minutes: Annotated[
        float, typer.Option(min=0.1, help="About how long it may take on this machine.")
    ] = 9.0,
    steps: Annotated[
        str | None, typer.Option(help="PRETRAIN,SFT: steps of the two stages, instead of a time.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """The whole life of a small model: `lmcraft demo`, some minutes on two cores, no GPU.

    Real conversations are fetched, a tokenizer and a model are trained from nothing, the model is tuned to chat, both
    are measured, and a page tells the story.
    """
    numbers = None if steps is None else _numbers(steps)
    entry = catalog.ENTRIES.get(data)
    if entry is not None and entry.kind == "data" and not store.has(data):
        say(f"fetching {data} ({entry.licence}): {entry.what}")
        fetch.pull(entry)
    from .. import demo

    given = None if numbers is None else demo.Steps(*numbers)
    summary = demo.run(out, data, minutes, given, follow)
    emit(summary, as_json, lambda: _tell(summary, out))


def _numbers(steps: str) -> tuple[int, int]:
    """The two numbers of `--steps`."""
    words = [word.strip() for word in steps.split(",")]
    if len(words) != 2 or not all(word.isdecimal() and 0 < int(word) < 10**9 for word in words):
        raise UserError(
            f"{steps!r} is not two numbers of steps",
            where="option --steps",
            fix="for example --steps 300,100",
        )
    return int(words[0]), int(words[1])


def _tell(summary: dict[str, Any], out: Path) -> None:
    for chat in summary["chats"]:
        print(f"\n> {chat['prompt']}")
        for name in ("base", "chat"):
            answer = chat[name]
            ended = (
                "stopped by itself" if answer["finish_reason"] == "stop" else "went on until it was cut off"
            )
            text = answer["text"].strip().replace("\n", "\n        ")
            print(f"  {name}: {text}   [{ended}]")
    rows = [
        [name, stage["seconds"], stage["tokens"], stage["parameters"], stage["bits_per_byte"],
         f"{100 * stage['share_stopped']:.0f} %", f"{stage['peak_memory_bytes'] / 1e9:.2f} GB"]
        for name, stage in summary["stages"].items()
    ]  # fmt: skip
    headings = [
        "stage",
        "seconds",
        "trained tokens",
        "parameters",
        "bits/byte held out",
        "answers that stop",
        "memory",
    ]
    print("\n" + table(headings, rows))
    print(f"\nreport:  {out / 'report.html'}\nto talk: {summary['next']}")
    say(f"finished in {summary['seconds'] / 60:.1f} minutes" if "seconds" in summary else "")
