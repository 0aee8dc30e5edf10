"""Train: any stage, from a YAML file or the name of a stage; an unfinished run is resumed.

Proved by tests/cli/test_life.py and tests/cli/test_bad_input.py.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..core.errors import UserError
from ..core.log import Progress, say
from .output import emit

if TYPE_CHECKING:
    from ..train.loop import Step


def command(
    source: Annotated[str, typer.Argument(metavar="CONFIG|STAGE", help="A YAML file, or a stage: pretrain, sft.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE…", help="Settings that win over the file.")
    ] = None,
    out: Annotated[str | None, typer.Option(help="Directory of the run; an unfinished run there goes on.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of everything random; the same as seed=N.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Train a model: `lmcraft train pretrain data=book.txt --out runs/book`, `lmcraft train sft base=runs/book data=chats.jsonl`.

    Every setting has a default; the complete config is written to the run. Stopped by Ctrl-C or killed? The same
    command with the same --out goes on where it was, with the same result.
    """
    from .. import api, recipe

    settings = [*(overrides or []), *([] if seed is None else [f"seed={seed}"])]
    if "=" in source:
        raise UserError(f"{source!r} is a setting; the first argument is a YAML file or a stage",
                        fix=f"for example: lmcraft train pretrain {source}")  # fmt: skip
    asked = recipe.read(source, settings)
    place = api.place(asked, out)
    last = follow(api.train(asked, out=place), asked.stage.kind)
    run = api.Run.open(place)
    state = run.state
    result = {"run": str(place), "report": str(place / "report.html"), **state, "loss": last.loss if last else None}
    emit(result, as_json, lambda: _tell(result, asked.stage.kind))


def follow(steps: Iterable[Step], label: str) -> Step | None:
    """Runs training to its end with a progress line; the last step."""
    last = None
    progress: Progress | None = None
    try:
        for step in steps:
            if progress is None:
                progress = Progress(step.steps, "steps", label, start=step.number - 1)
                progress.__enter__()
            progress.update(
                step.number, loss=step.loss, lr=step.lr, **{"tok/s": round(step.tokens_per_s)},
                memory=f"{step.memory_bytes / 1e9:.2f} GB",
            )  # fmt: skip
            last = step
    finally:
        if progress is not None:
            progress.__exit__(None, None, None)
    return last


def _tell(result: dict[str, Any], stage: str) -> None:
    loss = f", loss {result['loss']:.4f}" if result["loss"] is not None else ""
    say(f"{result['run']}: {result['status']} after {result['step']} steps{loss}")
    say(f"report: {result['report']}")
    verb = "chat" if stage == "sft" else "generate"
    question = "" if verb == "chat" else ' "Once upon a time"'
    say(f"next:   lmcraft {verb} {result['run']}{question}")
