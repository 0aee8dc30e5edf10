"""Train: any stage, from a YAML file or the name of a stage; an unfinished run is resumed.

Proved by tests/cli/test_life.py and tests/cli/test_bad_input.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..core.errors import UserError
from ..core.log import say, speaks
from .follow import follow
from .output import emit

NEXT = {
    "pretrain": ("generate", ' "Once upon a time"'),
    "sft": ("chat", ""),
    "mask": ("read", ' "It was the [MASK] of it."'),
    **dict.fromkeys(("classify", "tag", "embed"), ("read", ' "a text"')),
    "reward": ("eval", " reward"),
    **dict.fromkeys(("dpo", "ppo", "grpo", "best_of_n"), ("chat", "")),
}


def command(
    source: Annotated[
        str,
        typer.Argument(
            metavar="CONFIG|STAGE", help="A YAML file, or a stage: pretrain, sft, translate, mask, …"
        ),
    ],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE…", help="Settings that win over the file.")
    ] = None,
    out: Annotated[
        str | None, typer.Option(help="Directory of the run; an unfinished run there goes on.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of everything random; the same as seed=N.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Train a model: `lmcraft train pretrain data=book.txt --out runs/book`.

    Then tune it to chat: `lmcraft train sft base=runs/book data=chats.jsonl --out runs/chat`.
    Every setting has a default; the complete config is written to the run. Stopped by Ctrl-C or killed? The same
    command with the same --out goes on where it was, with the same result.
    """
    from .. import api, recipe
    from ..train.interrupt import Interrupted

    settings = [*(overrides or []), *([] if seed is None else [f"seed={seed}"])]
    if "=" in source:
        raise UserError(f"{source!r} is a setting; the first argument is a YAML file or a stage",
                        fix=f"for example: lmcraft train pretrain {source}")  # fmt: skip
    asked = recipe.read(source, settings)
    place = api.place(asked, out)
    try:
        follow(api.train(asked, out=place), asked.stage.kind)
    except Interrupted as stopped:
        stopped.fix = f"lmcraft train {place / 'config.yaml'} goes on"
        raise
    if not speaks():
        return
    run = api.Run.open(place)
    rows = run.metrics()
    loss = rows[-1]["loss"] if rows else None
    result = {"run": str(place), "report": str(place / "report.html"), **run.state, "loss": loss}
    emit(result, as_json, lambda: _tell(result, asked.stage.kind))


def _tell(result: dict[str, Any], stage: str) -> None:
    loss = f", loss {result['loss']:.4f}" if result["loss"] is not None else ""
    say(f"{result['run']}: {result['status']} after {result['step']} steps{loss}")
    say(f"report: {result['report']}")
    verb, question = NEXT.get(stage, NEXT["pretrain"])
    knows_conversations = any(Path(result["run"]).glob("*/chat_template.jinja"))
    if verb == "chat" and not knows_conversations:
        verb, question = NEXT["pretrain"]
    say(f"next:   lmcraft {verb} {result['run']}{question}")
