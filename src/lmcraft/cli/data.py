"""Look at data before training: its shape, statistics, repetitions, problems, and what would be trained, in colour.

Proved by tests/cli/test_data.py.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..core.errors import UserError
from .output import emit, table

if TYPE_CHECKING:
    from rich.text import Text as Drawn

    from ..data.load import Loaded
    from ..data.preview import Span
    from ..data.records import Record
    from ..text.chat import ChatTemplate
    from ..text.tokenizer import Tokenizer

_PROBLEMS_IN_JSON = 1000
_PROBLEMS_SHOWN = 10
_REPEATED_SHOWN = 5
_CHARACTERS_SHOWN = 1500  # of one row
_TRAINED = "bold green"
_READ = "dim"


def command(
    files: Annotated[
        list[str],
        typer.Argument(help="txt, jsonl, json, csv, tsv, parquet, each also .gz; or a name in the store."),
    ],
    kind: Annotated[
        str | None, typer.Option(help="What the rows are, such as chat or alpaca; default: recognised.")
    ] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(help="A tokenizer, run or model directory: counts tokens and shows the real mask."),
    ] = None,
    template: Annotated[
        str | None,
        typer.Option(help="chatml, plain or a file; default: that of the tokenizer's model, else chatml."),
    ] = None,
    context: Annotated[
        int | None, typer.Option(min=1, help="Count the records longer than so many tokens.")
    ] = None,
    near: Annotated[
        bool, typer.Option("--near", help="Look for near duplicates too (extra `data`).")
    ] = False,
    rows: Annotated[int, typer.Option(min=0, max=1000, help="How many rows to show.")] = 3,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Look at data before training: `lmcraft data chats.jsonl`.

    Shows what shape the rows have, statistics, repetitions, the rows that cannot be used with their lines, and the
    first rows with what would be trained in colour. Ends with code 2 when no row can be used.
    """
    from ..data import clean, statistics
    from ..data.load import load

    if tokenizer is None and (template is not None or context is not None):
        raise UserError("--template and --context need --tokenizer", fix="add --tokenizer DIRECTORY")
    loaded = load(files, kind)
    if not loaded.records:
        loaded.require()
    machine = None if tokenizer is None else _machine(tokenizer, template)
    facts = statistics.describe(loaded.records)
    if machine is not None:
        facts |= statistics.tokens(loaded.records, *machine, context)
    removed = (clean.near if near else clean.exact)(loaded.records)[1]
    result = {
        **_counts(loaded),
        "statistics": facts,
        "repetitions": {
            "count": len(removed),
            "first": [
                {"where": str(one.where), "of": str(one.of), "similarity": round(one.similarity, 3)}
                for one in removed[:_PROBLEMS_IN_JSON]
            ],
        },
        "rows": [
            {"where": str(record.where), "spans": [asdict(span) for span in _spans(record, machine)]}
            for record in loaded.records[:rows]
        ],
    }
    emit(result, as_json, lambda: _tell(result))


def _machine(tokenizer: str, template: str | None) -> tuple[Tokenizer, ChatTemplate]:
    """Tokenizer and template; a run keeps both with its model."""
    from ..data.store import resolve
    from ..text.chat import ChatTemplate
    from ..text.tokenizer import Tokenizer

    place = resolve(tokenizer)
    place = place / "model" if (place / "model" / "tokenizer.json").is_file() else place
    found = Tokenizer.load(place)
    if template is None:
        own = place.is_dir() and ChatTemplate.exists(place)
        return found, ChatTemplate.load(place if own else "chatml", found)
    return found, ChatTemplate.load(template, found)


def _counts(loaded: Loaded) -> dict[str, Any]:
    from ..data.records import kind

    return {
        "files": loaded.files,
        "shape": loaded.shape,
        "kind": kind(loaded.records[0]),
        "records": len(loaded.records),
        "problems": {
            "count": len(loaded.problems),
            "first": [
                {"where": str(problem.where), "what": problem.what}
                for problem in loaded.problems[:_PROBLEMS_IN_JSON]
            ],
        },
    }


def _spans(record: Record, machine: tuple[Tokenizer, ChatTemplate] | None) -> list[Span]:
    from ..data.preview import rendered, spans
    from ..data.records import Chat

    if machine is not None and isinstance(record, Chat):
        return rendered(record, *machine)
    return spans(record)


def _tell(result: dict[str, Any]) -> None:
    from rich.console import Console

    for name, counts in result["files"].items():
        print(f"{name}: {counts['records']:,} {counts['shape']} rows, {counts['problems']:,} problems")
    print(f"together {result['records']:,} records for {result['kind']}\n")
    print(_statistics(result["statistics"]))
    _listed("repetitions", result["repetitions"], _REPEATED_SHOWN, "{where} repeats {of}")
    _listed("rows that cannot be used", result["problems"], _PROBLEMS_SHOWN, "{where}: {what}")
    console = Console(soft_wrap=True, highlight=False)
    for row in result["rows"]:
        console.print(_drawn(row, marks=console.is_terminal and not console.no_color))


def _statistics(facts: dict[str, Any]) -> str:
    """Spreads as a table, then single numbers, a line each."""
    spreads = {name: value for name, value in facts.items() if isinstance(value, dict) and "median" in value}
    headings = ["", *(next(iter(spreads.values())))]
    lines = [table(headings, [[name, *value.values()] for name, value in spreads.items()])]
    for name, value in facts.items():
        if name in spreads:
            continue
        label = name.replace("_", " ")
        if isinstance(value, dict) and "share" in value:
            lines.append(f"{label}: {value['total']:,} ({value['share']:.1%})")
        elif isinstance(value, dict):
            lines.append(f"{label}: " + ", ".join(f"{_plain(one)} {count:,}" for one, count in value.items()))
        else:
            lines.append(f"{label}: {value}")
    return "\n".join(lines)


def _listed(title: str, found: dict[str, Any], limit: int, line: str) -> None:
    print(f"{title}: {found['count']:,}")
    for one in found["first"][:limit]:
        print(f"  {_plain(line.format(**one))}")
    if found["count"] > limit:
        print(f"  and {found['count'] - limit:,} more (--json lists them)")


def _drawn(row: dict[str, Any], marks: bool) -> Drawn:
    """A row for the terminal; where there are no colours, what is trained stands between « and »."""
    from rich.text import Text

    drawn = Text()
    drawn.append(f"\n{row['where']}\n", "bold")
    left = _CHARACTERS_SHOWN
    for span in row["spans"]:
        if left <= 0:
            break
        text = _plain(span["text"][:left])
        left -= len(text)
        if span["what"]:
            drawn.append(f"{span['what']}: ", "cyan")
        opening, closing = ("", "") if marks or not span["trained"] else ("«", "»")
        drawn.append(f"{opening}{text}{closing}", _TRAINED if span["trained"] else _READ)
        if span["what"]:
            drawn.append("\n")
    whole = sum(len(span["text"]) for span in row["spans"])
    if whole > _CHARACTERS_SHOWN:
        drawn.append(f"… ({whole:,} characters)\n", "cyan")
    return drawn


def _plain(text: str) -> str:
    """Text from data for a terminal: what would move the cursor or hide characters is shown by name."""
    from ..report.tokens import plain

    return plain(text)
