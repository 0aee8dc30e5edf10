"""Demo: the whole life of a small model on real conversations, then a chat.

Proved by tests/cli/test_demo.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..core.log import say
from ..data import store
from . import pull
from .output import emit, table
from .train import follow


def command(
    out: Annotated[Path, typer.Option(help="Where everything goes.")] = Path("runs/demo"),
    data: Annotated[str, typer.Option(help="A file of conversations, or a name that `lmcraft pull` knows.")] = "chitchat",
    minutes: Annotated[float, typer.Option(min=0.1, help="About how long it may take on this machine.")] = 9.0,
    steps: Annotated[
        str | None, typer.Option(help="PRETRAIN,SFT: steps of the two stages, instead of a time.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """The whole life of a small model: `lmcraft demo`, some minutes on two cores, no GPU.

    Real conversations are fetched, a tokenizer and a model are trained from nothing, the model is tuned to chat, both
    are measured, and a page tells the story.
    """
    if data == "chitchat" and not store.has(data):
        pull.fetch(data)
    from .. import demo

    given = None
    if steps:
        pretrain, _, sft = steps.partition(",")
        given = demo.Steps(int(pretrain), int(sft or pretrain))
    summary = demo.run(out, data, minutes, given, follow)
    emit(summary, as_json, lambda: _tell(summary, out))


def _tell(summary: dict[str, Any], out: Path) -> None:
    for chat in summary["chats"]:
        print(f"\n> {chat['prompt']}")
        for name in ("base", "chat"):
            answer = chat[name]
            ended = "stopped by itself" if answer["finish_reason"] == "stop" else "went on until it was cut off"
            text = answer["text"].strip().replace("\n", "\n        ")
            print(f"  {name}: {text}   [{ended}]")
    rows = [
        [name, stage["seconds"], stage["tokens"], stage["parameters"], stage["bits_per_byte"],
         f"{100 * stage['share_stopped']:.0f} %", f"{stage['peak_memory_bytes'] / 1e9:.2f} GB"]
        for name, stage in summary["stages"].items()
    ]  # fmt: skip
    headings = ["stage", "seconds", "trained tokens", "parameters", "bits/byte held out", "answers that stop", "memory"]
    print("\n" + table(headings, rows))
    print(f"\nreport:  {out / 'report.html'}\nto talk: {summary['next']}")
    say(f"finished in {summary['seconds'] / 60:.1f} minutes" if "seconds" in summary else "")
