"""Load data files as Records: recognise each file's shape, keep what is right, name what is wrong.

1. The shape of a file is that of most of its first 100 rows. A row of another shape is a Problem, not a guess.
2. Several files make one set only when they hold the same type of record, whatever their shapes.
3. `kind` asks for a type (`chat`, `pair` …) or names a shape (`alpaca` …). Some types follow from others: a text from
   any row with a text column, a prompt from a conversation or preference, a preference from an arena vote.
4. Nothing is dropped in silence: records + problems = rows read.

Proved by tests/unit/data/test_load.py.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..core.errors import UserError
from ..core.log import Progress
from . import formats, read
from .lines import Row
from .records import KINDS, Chat, Pair, Problem, Prompt, Rated, Record, Text, Vote, kind
from .store import resolve

_LOOK_AHEAD = 100
_SHOWN = 10


@dataclass
class Loaded:
    """What the files gave: records, their shape, the rows that were left out, and counts by file."""

    records: list[Record] = field(default_factory=list)
    shape: str = ""
    problems: list[Problem] = field(default_factory=list)
    files: dict[str, dict[str, int | str]] = field(default_factory=dict)

    def require(self) -> Loaded:
        """The same, when every row is usable and there is at least one.

        Raises:
            UserError: with the first problems and how many there are.
        """
        names = ", ".join(self.files)
        if self.problems:
            shown = [str(problem) for problem in self.problems[:_SHOWN]]
            more = len(self.problems) - len(shown)
            rows = len(self.problems) + len(self.records)
            raise UserError(
                f"{len(self.problems):,} of {rows:,} rows cannot be used",
                where=names,
                why="\n    ".join([*shown, *([f"and {more:,} more"] if more else [])]),
                fix=f"mend or remove these rows; `lmcraft data {names.replace(',', '')}` lists them",
            )
        if not self.records:
            raise UserError("there are no rows to use", where=names)
        return self


def load(
    paths: str | Path | Sequence[str | Path],
    kind: str | None = None,
    columns: Mapping[str, str] | None = None,
) -> Loaded:
    """Read files (or names in the local store) into records of one type.

    Args:
        paths: one or more files; see `read` for the formats.
        kind: a record type of `records.KINDS` or a shape of `formats.SHAPES`; None recognises it.
        columns: what a shape's fields are called in these files: {"source": "en", "target": "de"}; other columns are
            then not looked at.

    Raises:
        UserError: a file cannot be read, its columns are of no known shape, or the files do not fit together.
    """
    if kind is not None and kind not in KINDS and kind not in formats.SHAPES:
        known = ", ".join(dict.fromkeys([*KINDS, *formats.SHAPES]))
        raise UserError(f"there is no kind of data called {kind!r}", why=f"known are {known}")
    named = [paths] if isinstance(paths, (str, Path)) else list(paths)
    if not named:
        raise UserError("no data files are named", fix="give at least one file")
    loaded, shapes = Loaded(), []
    with Progress(None, "rows", "reading") as progress:
        for path in map(resolve, named):
            found = _File(path, kind, loaded, columns or {})
            for count, _ in enumerate(found.take(), start=1):
                if count % 1000 == 0:
                    progress.update(len(loaded.records) + len(loaded.problems))
            if found.shape:
                shapes.append(found.shape)
    loaded.shape = ", ".join(dict.fromkeys(shapes))
    return loaded


class _File:
    """One file on its way into the records."""

    def __init__(self, path: Path, kind: str | None, loaded: Loaded, columns: Mapping[str, str]) -> None:
        self.path, self.kind, self.loaded, self.columns = path, kind, loaded, columns
        self.shape = ""

    def _renamed(self, row: Row | Problem) -> Row | Problem:
        """The row with the columns that were named, called as the shapes call them."""
        if isinstance(row, Problem):
            return row
        missing = [column for column in self.columns.values() if column not in row.value]
        if missing:
            return Problem(row.where, f"there is no column {', '.join(map(repr, missing))}")
        return replace(row, value={name: row.value[column] for name, column in self.columns.items()})

    def take(self) -> Iterator[None]:
        """Put every row into the records or the problems, one at a time."""
        rows = map(self._renamed, read.rows(self.path)) if self.columns else read.rows(self.path)
        first = list(itertools.islice(rows, _LOOK_AHEAD))
        good = [row for row in first if isinstance(row, Row)]
        records, problems = len(self.loaded.records), len(self.loaded.problems)
        for row in itertools.chain(first, rows):
            if isinstance(row, Row) and not self.shape:
                self.shape = self._shape(good or [row])
            made = row if isinstance(row, Problem) else self._record(row)
            if isinstance(made, Problem):
                self.loaded.problems.append(made)
            else:
                self._agrees(made)
                self.loaded.records.append(made)
            yield
        self.loaded.files[str(self.path)] = {
            "shape": self.shape,
            "records": len(self.loaded.records) - records,
            "problems": len(self.loaded.problems) - problems,
        }

    def _shape(self, rows: list[Row]) -> str:
        if self.kind in formats.SHAPES and self.kind not in KINDS:
            return self.kind
        if self.kind == "text" and "text" in rows[0].value:
            return "text"
        return formats.shape(rows)

    def _record(self, row: Row) -> Record | Problem:
        made = formats.record(row, self.shape)
        wanted = KINDS.get(self.kind or "")
        if isinstance(made, Problem) or wanted is None or isinstance(made, wanted):
            return made
        return _converted(made, wanted)

    def _agrees(self, record: Record) -> None:
        if self.loaded.records and type(record) is not type(self.loaded.records[0]):
            first = self.loaded.records[0]
            raise UserError(
                f"the files hold different kinds of records: {kind(first)} and {kind(record)}",
                where=f"{first.where} and {record.where}",
                fix="load them apart, or bring them to one shape",
            )


def _converted(record: Record, wanted: type) -> Record | Problem:
    """The record as another type where one follows from the other."""
    if wanted is Prompt and isinstance(record, (Pair, Rated)):
        return Prompt(record.prompt, where=record.where)
    if wanted is Prompt and isinstance(record, Chat):
        return _last_question(record)
    if wanted is Pair and isinstance(record, Vote):
        return _preference(record)
    names = {type_: name for name, type_ in KINDS.items()}
    raise UserError(
        f"{names[wanted]} rows are needed here, these are {kind(record)} rows",
        where=str(record.where),
        fix="`lmcraft data FILE` shows what a file holds; docs/data.md lists the shapes",
    )


def _last_question(chat: Chat) -> Prompt:
    """Everything before the last answer, with that answer to compare with."""
    last = max(number for number, message in enumerate(chat.messages) if message.role == "assistant")
    return Prompt(chat.messages[:last], chat.messages[last].content, chat.where)


def _preference(vote: Vote) -> Pair | Problem:
    """The winner's answer over the loser's, from where the two conversations part."""
    if vote.winner not in ("model_a", "model_b"):
        return Problem(vote.where, "the vote is a tie, which prefers neither answer")
    if not vote.conversation_a or not vote.conversation_b:
        return Problem(vote.where, "the vote has no conversations, so there are no answers to prefer")
    sides = (vote.conversation_a, vote.conversation_b)
    shared = 0
    while all(len(side) > shared for side in sides) and sides[0][shared] == sides[1][shared]:
        shared += 1
    rests = [side[shared:] for side in sides]
    if shared == 0 or any(not rest or rest[0].role != "assistant" for rest in rests):
        return Problem(vote.where, "the two conversations do not part at an answer")
    chosen, rejected = rests if vote.winner == "model_a" else rests[::-1]
    return Pair(sides[0][:shared], chosen, rejected, vote.where)


def texts(records: Sequence[Record]) -> Iterator[str]:
    """The texts of Text records, for training a tokenizer or pre-training."""
    return (record.text for record in records if isinstance(record, Text))
