"""Items and their answers in the store: adds them once, whatever is repeated, and reads them.

An item's key is its own, or the digest of its content; adding the same file again adds nothing.

Proved by tests/feedback/test_store.py.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import sqlalchemy as sa

from ..core.errors import UserError
from ..data.records import Message
from . import tables as t
from .judgement import Answer, Item, writable

_AT_ONCE = 500  # values in one IN (…); old SQLite has a limit of 999
_MOST_ANSWERS = 26
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Added:
    """How many items are new, and how many were there already."""

    new: int
    present: int


def add(connection: sa.Connection, project_id: int, batch_id: int, items: Sequence[Item]) -> Added:
    """Adds the items that are not there yet.

    Raises:
        UserError: an item has another content than the one of the same key, or cannot be rated at all.
    """
    named: dict[str, Item] = {}
    for item in map(_checked, items):
        _same(named.setdefault(item.key, item), item)
    there = {item.key: item for item in read(connection, project_id, list(named))}
    for key, item in there.items():
        _same(item, named[key])
    fresh = [item for key, item in named.items() if key not in there]
    for part in _parts(fresh):
        rows = [
            {"project_id": project_id, "batch_id": batch_id, "key": item.key, "prompt": _messages(item)}
            for item in part
        ]
        connection.execute(t.items.insert(), rows)
        ids = dict(connection.execute(
            sa.select(t.items.c.key, t.items.c.id)
            .where(t.items.c.project_id == project_id, t.items.c.key.in_([item.key for item in part]))
        ).all())  # fmt: skip
        connection.execute(
            t.answers.insert(), [row for item in part for row in _answers(item, ids[item.key])]
        )
    return Added(len(fresh), len(items) - len(fresh))


def read(connection: sa.Connection, project_id: int, keys: Sequence[str] | None = None) -> list[Item]:
    """The items of a project, or those of the keys, in the order in which they were added."""
    rows: list[Any] = []
    item, answer = t.items.c, t.answers.c
    query = (
        sa.select(item.id, item.key, item.prompt, answer.text, answer.model, answer.source)
        .join(t.answers, t.answers.c.item_id == t.items.c.id)
        .where(t.items.c.project_id == project_id)
        .order_by(t.items.c.id, t.answers.c.place)
    )
    for part in [None] if keys is None else _parts(keys):
        rows += connection.execute(query if part is None else query.where(t.items.c.key.in_(part)))
    return [_item(list(group)) for _, group in itertools.groupby(rows, key=lambda row: row.id)]


def _item(rows: list[Any]) -> Item:
    prompt = tuple(Message(*turn) for turn in rows[0].prompt)
    answers = tuple(Answer(row.text, row.model, row.source) for row in rows)
    return Item(prompt, answers, rows[0].key, rows[0].id)


def _checked(item: Item) -> Item:
    key = item.key or item.fingerprint()
    where = f"item {key}"
    if not 0 < len(item.answers) <= _MOST_ANSWERS:
        raise UserError(
            f"an item has 1 to {_MOST_ANSWERS} answers, this one {len(item.answers)}", where=where
        )
    if not item.prompt:
        raise UserError("an item needs a prompt", where=where)
    if len(key) > t.items.c.key.type.length or not key.isprintable():
        raise UserError("an item's key is a short, printable text", where=f"item {key[:80]!r}")
    for text in (key, *(m.content for m in item.prompt), *(a.text for a in item.answers)):
        writable(text, f"a text of item {key[:80]!r}")
    return replace(item, key=key)


def _same(there: Item, given: Item) -> None:
    if there.fingerprint() != given.fingerprint():
        raise UserError(
            "two items have the same key and different content", where=f"item {given.key}",
            why="ratings name their item by its key", fix="give the item another id, or none",
        )  # fmt: skip


def _messages(item: Item) -> list[list[str]]:
    return [[message.role, message.content] for message in item.prompt]


def _answers(item: Item, item_id: int) -> Iterator[dict[str, Any]]:
    for place, answer in enumerate(item.answers):
        yield {"item_id": item_id, "place": place, "text": answer.text, "model": answer.model,
               "source": dict(answer.source)}  # fmt: skip


def _parts(values: Sequence[T]) -> Iterator[Sequence[T]]:
    for start in range(0, len(values), _AT_ONCE):
        yield values[start : start + _AT_ONCE]
