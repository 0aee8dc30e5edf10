"""Compare: the same training under several settings; one table, one figure, one recommendation.

Proved by tests/cli/test_compare.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..core.errors import UserError
from ..core.log import say
from .output import emit, table


def command(
    source: Annotated[
        str,
        typer.Argument(metavar="CONFIG|STAGE", help="What `lmcraft train` takes: a YAML file, or a stage."),
    ],
    settings: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=A,B,C…", help="Settings; several values of one are compared."),
    ] = None,
    out: Annotated[
        Path, typer.Option(help="Where runs and page go; an unfinished comparison goes on.")
    ] = Path("runs/compare"),
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Find out which method to use on your data, by trying them.

    `lmcraft compare sft base=smollm2 data=chats.jsonl adapter.kind=lora,bottleneck,freeze,none seed=1,2,3`
    trains every combination, each run in a process of its own, and prints held-out loss (± over seeds), trained
    parameters, peak memory, time and size of what is kept, with a recommendation and its reason. `none` is full tuning,
    `qlora` is LoRA over a 4-bit base. Any setting can be compared: train.lr=1e-4,1e-3 or adapter.rank=4,8,16.
    """
    if "=" in source:
        raise UserError(f"{source!r} is a setting; the first argument is a YAML file or a stage",
                        fix=f"for example: lmcraft compare sft {source}")  # fmt: skip
    from ..compare import compare

    done, judged = compare.perform(source, settings or [], out)
    result = {
        "directory": str(out), "report": str(out / "report.html"), "recommended": judged.chosen.label,
        "reason": judged.reason, "front": judged.front, **done.finding.model_dump(mode="json"),
    }  # fmt: skip
    emit(result, as_json, lambda: _tell(result))


def _tell(result: dict[str, Any]) -> None:
    for shown in result["tables"]:
        print(table(shown["headings"], shown["rows"]))
        print(shown["note"])
    print(f"\n{result['claim']}")
    for limit in result["limits"]:
        say(f"note: {limit}")
    say(f"report: {result['report']}")
