"""Plan: memory, operations and time of a training, before it starts and without any weights.

Proved by tests/cli/test_plan.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..core.errors import UserError
from .output import emit, table

STAGE = "sft"


def command(
    source: Annotated[
        str,
        typer.Argument(
            metavar="CONFIG|STAGE|MODEL",
            help="A YAML file, a stage, or a model: its directory or a config.json.",
        ),
    ],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE…", help="Settings, as for `lmcraft train`.")
    ] = None,
    fit: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Propose what fits into this memory, such as 8GB.")
    ] = None,
    ranks: Annotated[int, typer.Option(min=1, help="Processes that train together.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Say what a training needs: `lmcraft plan sft base=runs/book train.batch_size=8`.

    No weights are loaded and nothing is written; a public config.json alone is enough:
    `lmcraft plan config.json adapter=lora --fit 8GB`.
    """
    from .. import fitting, planning
    from .. import recipe as recipes

    source, settings = _asked(source, overrides or [])
    if fit is None:
        tried = [fitting.Tried((), (), planning.of_recipe(recipes.read(source, settings), ranks))]
        limit = None
    else:
        limit = fitting.size(fit)
        tried = fitting.fit(source, settings, limit, ranks)
    last = tried[-1]
    result = planning.facts(last.planned)
    speed = planning.speed(last.planned)
    result |= {"operations_per_s": speed, "seconds_per_step": last.planned.plan.seconds(speed)}
    if limit is not None:
        result |= {
            "limit_bytes": limit, "fits": last.planned.plan.peak <= limit,
            "settings": list(last.settings), "costs": list(last.costs),
        }  # fmt: skip
    emit(result, as_json, lambda: _tell(result, tried))


def _asked(source: str, overrides: list[str]) -> tuple[str, list[str]]:
    """A model in the place of a config stands for tuning it; data that is not named is not needed."""
    place = Path(source)
    named = [word.partition("=")[0] for word in overrides]
    if place.name == "config.json" or (place.is_dir() and (place / "config.json").is_file()):
        if "stage" in named:
            stage = next(word.partition("=")[2] for word in overrides if word.startswith("stage="))
            overrides = [word for word in overrides if not word.startswith("stage=")]
        else:
            stage = STAGE
        source, overrides = stage, [f"base={source}", *overrides]
    elif "=" in source:
        raise UserError(f"{source!r} is a setting; the first argument is a YAML file, a stage or a model",
                        fix=f"for example: lmcraft plan pretrain {source}")  # fmt: skip
    if not {"data", "data.files"} & {*named} and not Path(source).exists():
        overrides = ["data=unknown", *overrides]
    return source, overrides


def _tell(result: dict[str, Any], tried: list) -> str:
    from ..report import words

    peak = result["peak_bytes"]
    rows = [
        [name, words.size(size), words.share(size, peak)] for name, size in result["parts"].items() if size
    ]
    rows.append(["peak of one process", words.size(peak), ""])
    if result["on_disk_bytes"]:
        rows.append(["on disk", words.size(result["on_disk_bytes"]), ""])
    lines = [table(["what for", "memory", "share"], rows), ""]
    lines.append(
        f"{words.short(result['parameters'])} parameters, of which {words.short(result['trained'])} are trained; "
        f"{result['operations_per_step']:.3g} operations a step, about "
        f"{words.duration(result['seconds_per_step'])} here"
    )
    lines.append(
        "leave room: runs in several micro-batches have needed up to half as much again (docs/planning.md)"
    )
    if "limit_bytes" in result:
        lines += _choice(result, tried)
    elif peak > result["memory_here_bytes"]:
        lines.append(f"this machine has {words.size(result['memory_here_bytes'])}: find what fits with --fit")
    return "\n".join(lines)


def _choice(result: dict[str, Any], tried: list) -> list[str]:
    """What was tried on the way to what fits."""
    from ..report import words

    found = "fits" if result["fits"] else "does not fit, and nothing else is left to try,"
    lines = ["", f"{found} into {words.size(result['limit_bytes'])}:"]
    for before, after in zip([None, *tried], tried, strict=False):
        changed = "as asked" if before is None else " ".join(after.settings[len(before.settings) :])
        cost = "" if before is None else f": {after.costs[-1]}"
        lines.append(f"  {words.size(after.planned.plan.peak):>10}  {changed}{cost}")
    return lines
