"""The log of ratings: adds rows to it, and reads what holds now.

    revision 0 rate ◄─supersedes─ revision 1 undo ◄─supersedes─ revision 2 rate     (of one rater about one item)

1. A row that no other supersedes, and that is no undo, is what the rater says now.
2. The same key with the same content is a retry and gives the row that is there; with other content it is a mistake.

Proved by tests/feedback/test_store.py and tests/feedback/test_durability.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from ..core.errors import UserError
from . import tables as t
from .judgement import Action, Item, Judgement, Rating

_LATER = t.ratings.alias("later")
HOLDS = ~sa.exists().where(_LATER.c.supersedes == t.ratings.c.id) & (t.ratings.c.action != "undo")
_COLUMNS = (
    t.ratings.c.key, t.items.c.key.label("item"), t.raters.c.name.label("rater"), t.raters.c.simulated,
    t.ratings.c.action, t.ratings.c.judgement, t.guidelines.c.version.label("guidelines"), t.ratings.c.revision,
    t.ratings.c.created_at,
)  # fmt: skip
_BEFORE = t.ratings.alias("before")


@dataclass(frozen=True, slots=True)
class Entry:
    """One row to be added."""

    key: str
    item: Item
    rater_id: int
    guidelines_id: int
    action: Action
    judgement: Judgement
    created_at: str | None = None  # default: now; an imported rating keeps its time


def now() -> str:
    """The time as the store writes it: UTC, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def add(connection: sa.Connection, entry: Entry) -> Rating:
    """Adds the row, or finds it, and gives it back.

    Raises:
        UserError: the key belongs to another row; the rater has rated this item already; or there is nothing to undo.
    """
    latest = connection.execute(
        sa.select(t.ratings.c.id, t.ratings.c.revision, t.ratings.c.action)
        .where(t.ratings.c.item_id == entry.item.id, t.ratings.c.rater_id == entry.rater_id)
        .order_by(t.ratings.c.revision.desc())
        .limit(1)
    ).first()
    # After `latest`, because PostgreSQL lets every statement see what was committed before it: if the row that another
    # connection has just added under this key is the latest one, it is found here.
    there = _by_key(connection, entry)
    if there is not None:
        return there
    holds = latest is not None and latest.action != "undo"
    if holds and entry.action != "undo":
        raise UserError("this rater has rated this item already", where=f"item {entry.item.key}",
                        fix="undo that rating first")  # fmt: skip
    if not holds and entry.action == "undo":
        raise UserError("there is nothing to undo", where=f"item {entry.item.key}")
    row = {
        "key": entry.key, "item_id": entry.item.id, "rater_id": entry.rater_id, "guidelines_id": entry.guidelines_id,
        "action": entry.action, "judgement": entry.judgement.plain(), "created_at": entry.created_at or now(),
        "revision": 0 if latest is None else latest.revision + 1, "supersedes": latest.id if latest else None,
    }  # fmt: skip
    connection.execute(t.ratings.insert(), row)
    return read(connection, t.ratings.c.key == entry.key)[0]


def _by_key(connection: sa.Connection, entry: Entry) -> Rating | None:
    found = connection.execute(sa.select(t.ratings).where(t.ratings.c.key == entry.key)).first()
    if found is None:
        return None
    same = (
        found.item_id == entry.item.id
        and found.rater_id == entry.rater_id
        and found.action == entry.action
        and found.judgement == entry.judgement.plain()
    )
    if not same:
        raise UserError("this key belongs to another rating", where=f"key {entry.key}",
                        why="a key is given once; a retry repeats key and content",
                        fix="send new ratings under new keys")  # fmt: skip
    return read(connection, t.ratings.c.key == entry.key)[0]


def read(connection: sa.Connection, *conditions: Any) -> list[Rating]:
    """The ratings that meet the conditions, in the order in which they were added."""
    joined = (
        t.ratings.join(t.items, t.items.c.id == t.ratings.c.item_id)
        .join(t.raters, t.raters.c.id == t.ratings.c.rater_id)
        .join(t.guidelines, t.guidelines.c.id == t.ratings.c.guidelines_id)
        .outerjoin(_BEFORE, _BEFORE.c.id == t.ratings.c.supersedes)
    )
    query = sa.select(*_COLUMNS, _BEFORE.c.key.label("supersedes")).select_from(joined)
    rows = connection.execute(query.where(*conditions).order_by(t.ratings.c.id))
    return [Rating(**{**row._mapping, "judgement": Judgement.of(row.judgement)}) for row in rows]


def latest_of(connection: sa.Connection, project_id: int, rater_id: int) -> tuple[int, str] | None:
    """Id and key of the item that the rater judged last and has not taken back."""
    found = connection.execute(
        sa.select(t.items.c.id, t.items.c.key)
        .join(t.ratings, t.ratings.c.item_id == t.items.c.id)
        .where(t.items.c.project_id == project_id, t.ratings.c.rater_id == rater_id, HOLDS)
        .order_by(t.ratings.c.id.desc())
        .limit(1)
    ).first()
    return None if found is None else (found.id, found.key)


def counts(connection: sa.Connection, project_id: int) -> Sequence[sa.Row[Any]]:
    """For every rater of a project: name, simulated, and how many items are rated, skipped, flagged; the last time."""
    kinds = [
        sa.func.count().filter(t.ratings.c.action == action).label(action)
        for action in ("rate", "skip", "flag")
    ]
    return connection.execute(
        sa.select(t.raters.c.name, t.raters.c.simulated, *kinds, sa.func.max(t.ratings.c.created_at).label("last"))
        .join(t.ratings, t.ratings.c.rater_id == t.raters.c.id)
        .join(t.items, t.items.c.id == t.ratings.c.item_id)
        .where(t.items.c.project_id == project_id, HOLDS)
        .group_by(t.raters.c.name, t.raters.c.simulated)
        .order_by(t.raters.c.name)
    ).all()  # fmt: skip
