"""Study: answer a question about language models by an experiment of some minutes, with a number and a figure.

Proved by tests/cli/test_study.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..core.errors import UserError
from ..core.log import say
from .output import emit, table


def command(
    name: Annotated[str | None, typer.Argument(help="Which study; without it, all are listed.")] = None,
    settings: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE…", help="Sizes and steps; see config.yaml.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Where it goes; default: runs/study-NAME.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of weights and data; the same as seed=N.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Answer a question by an experiment: `lmcraft study long-memory`, some minutes on two cores.

    Without a name, lists the studies and what they ask. Each trains small models on data that it makes itself, states
    its finding with numbers, and writes a page with the figure: report.html, beside study.json with all numbers.
    """
    if name is not None and "=" in name:
        raise UserError(
            f"{name!r} is a setting; the first argument is the name of a study", fix="lmcraft study"
        )
    from ..studies import study

    if name is None:
        questions = {each: study.question(each) for each in study.names()}
        emit(
            {"studies": questions},
            as_json,
            lambda: _list(questions, table(["study", "question"], [*questions.items()])),
        )
        return
    given = [*(settings or []), *([] if seed is None else [f"seed={seed}"])]
    directory, done = study.perform(name, given, out)
    result = {
        "directory": str(directory),
        "report": str(directory / "report.html"),
        **done.model_dump(mode="json"),
    }
    emit(result, as_json, lambda: _tell(result))


def _list(questions: dict[str, str], text: str) -> str:
    return f"{text}\n\nfor example: lmcraft study {next(iter(questions))}"


def _tell(result: dict[str, Any]) -> None:
    finding = result["finding"]
    print(f"{result['question']}\n\n{finding['claim']}")
    for shown in finding["tables"]:
        print(f"\n{shown['title']}\n{table(shown['headings'], shown['rows'])}")
    say(f"\nfinished in {result['seconds']:.0f} s")
    say(f"report: {result['report']}")
