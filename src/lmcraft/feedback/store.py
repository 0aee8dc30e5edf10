"""The store of human feedback: projects with their guidelines, items, raters and ratings, in one database.

    with Store("runs/feedback.db") as store:
        project = store.create("helpful", Guidelines())
        project.add([Item((Message("user", "Hi"),), (Answer("Hello!"), Answer("What?")))], {"file": "by hand"})
        ann = store.rater("ann")
        item = project.next(ann)
        project.rate(ann, item, Judgement(choice=0), key="ann-1")

1. Acknowledged is durable: when a method that writes returns, what it wrote is on the disk.
2. Every method that writes may be called again with the same key after a doubt, and adds nothing the second time.
3. Nothing is deleted. What was said before can be read with `snapshot(history=True)`.

Proved by tests/feedback/test_store.py and tests/feedback/test_durability.py.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from ..core.errors import UserError
from ..core.find import suggestion
from . import itemtable, queue, ratinglog
from . import tables as t
from .database import Database
from .guidelines import Guidelines
from .itemtable import Added
from .judgement import (
    Action,
    Item,
    Judgement,
    Rater,
    Rating,
    Snapshot,
    Wish,
    check,
    check_comment,
)

_AT_ONCE = 200


class Store:
    """The projects of a database; a context manager that closes it."""

    def __init__(self, url: str | None = None) -> None:
        self.database = Database(url)

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.database.close()

    def projects(self) -> list[str]:
        """Names of all projects."""
        with self.database.reading() as connection:
            return list(connection.scalars(sa.select(t.projects.c.name).order_by(t.projects.c.name)))

    def create(self, name: str, guidelines: Guidelines) -> Project:
        """A new project with the first version of its guidelines.

        Raises:
            UserError: the name is taken, or no name.
        """
        _require_name(name, "a project")

        def work(connection: sa.Connection) -> int:
            if _project_id(connection, name) is not None:
                raise UserError("there is a project of this name already", where=f"{name} in {self.database.name}",
                                fix="choose another name, or go on with this one")  # fmt: skip
            row = {"name": name, "created_at": ratinglog.now()}
            made = connection.execute(t.projects.insert(), row).inserted_primary_key[0]
            _add_guidelines(connection, made, 1, guidelines)
            return made

        return Project(self.database, self.database.write(work), name)

    def project(self, name: str) -> Project:
        """The project of this name, or a UserError that names the nearest."""
        with self.database.reading() as connection:
            found = _project_id(connection, name)
        if found is None:
            known = self.projects()
            raise UserError(
                f"there is no project {name!r}{suggestion(name, known)}", where=self.database.name,
                why=f"projects are: {', '.join(known) or 'none'}", fix=f"make it: lmcraft feedback new {name}",
            )  # fmt: skip
        return Project(self.database, found, name)

    def rater(self, name: str, simulated: bool = False, settings: Mapping[str, Any] | None = None) -> Rater:
        """The rater of this name, who is entered at the first time.

        Raises:
            UserError: the name belongs to a rater of the other kind, or to a simulated one with other settings.
        """
        _require_name(name, "a rater")
        settings = dict(settings or {})

        def work(connection: sa.Connection) -> Rater:
            found = connection.execute(sa.select(t.raters).where(t.raters.c.name == name)).first()
            if found is None:
                row = {
                    "name": name,
                    "simulated": simulated,
                    "settings": settings,
                    "created_at": ratinglog.now(),
                }
                made = connection.execute(t.raters.insert(), row).inserted_primary_key[0]
                return Rater(made, name, simulated)
            if (found.simulated, found.settings) != (simulated, settings):
                kind = "a program" if found.simulated else "a person"
                raise UserError(f"the rater {name!r} is {kind}, with settings of its own", where=self.database.name,
                                fix="choose another name")  # fmt: skip
            return Rater(found.id, name, simulated)

        return self.database.write(work)


class Project:
    """One project of the store."""

    def __init__(self, database: Database, id: int, name: str) -> None:
        self.database, self.id, self.name = database, id, name

    def guidelines(self) -> tuple[int, Guidelines]:
        """The newest version and what it says."""
        with self.database.reading() as connection:
            _, version, guidelines = _newest(connection, self.id)
        return version, guidelines

    def set_guidelines(self, guidelines: Guidelines) -> int:
        """A new version of the guidelines, unless nothing changed; its number."""

        def work(connection: sa.Connection) -> int:
            _, version, newest = _newest(connection, self.id)
            if newest == guidelines:
                return version
            _add_guidelines(connection, self.id, version + 1, guidelines)
            return version + 1

        return self.database.write(work)

    def add(self, items: Sequence[Item], source: Mapping[str, Any]) -> Added:
        """Adds items as one batch; those that are there already stay as they are.

        Args:
            source: where they come from, kept with the batch.

        Raises:
            UserError: an item has the key of another one.
        """
        names = "\n".join(item.key or item.fingerprint() for item in items)
        key = hashlib.sha256(names.encode()).hexdigest()[:32]

        def work(connection: sa.Connection) -> Added:
            same = (t.batches.c.project_id == self.id) & (t.batches.c.key == key)
            batch = connection.scalar(sa.select(t.batches.c.id).where(same))
            if batch is None:
                row = {
                    "project_id": self.id,
                    "key": key,
                    "source": dict(source),
                    "created_at": ratinglog.now(),
                }
                batch = connection.execute(t.batches.insert(), row).inserted_primary_key[0]
            return itemtable.add(connection, self.id, batch, items)

        return self.database.write(work)

    def next(self, rater: Rater, enough: int | None = None) -> Item | None:
        """The item that the rater should judge now, or None when nothing is left; see queue.py."""
        with self.database.reading() as connection:
            keys = queue.open_items(connection, self.id, rater.id, enough)
            return itemtable.read(connection, self.id, keys[:1])[0] if keys else None

    def open_count(self, rater: Rater, enough: int | None = None) -> int:
        """How many items the rater has still to judge."""
        with self.database.reading() as connection:
            return len(queue.open_items(connection, self.id, rater.id, enough))

    def open_items(self, rater: Rater, enough: int | None = None) -> list[Item]:
        """All items that the rater has still to judge, in the order of the queue."""
        with self.database.reading() as connection:
            keys = queue.open_items(connection, self.id, rater.id, enough)
            items = {item.key: item for item in itemtable.read(connection, self.id)}
            return [items[key] for key in keys]

    def rate(
        self, rater: Rater, item: Item, judgement: Judgement, *, key: str, action: Action = "rate"
    ) -> Rating:
        """Keeps a judgement; the same key again gives the same row.

        Args:
            action: "rate"; or "skip" or "flag", where the judgement is at most a comment.

        Raises:
            UserError: the judgement does not fit item and guidelines; the rater judged the item before; or the key
                belongs to another rating.
        """
        return self.rate_many(rater, [Wish(item, judgement, key, action)])[0]

    def rate_many(self, rater: Rater, wishes: Sequence[Wish]) -> list[Rating]:
        """`rate` for many at once, a few hundred in each transaction: quicker, and an error loses only its part."""
        with self.database.reading() as connection:
            newest, _, guidelines = _newest(connection, self.id)
        for wish in wishes:
            _require_key(wish.key)
            check_comment(wish.judgement.comment)
            if wish.action == "rate":
                check(wish.judgement, wish.item, guidelines)
        kept: list[Rating] = []
        for start in range(0, len(wishes), _AT_ONCE):
            part = [
                ratinglog.Entry(w.key, w.item, rater.id, newest, w.action, w.judgement, w.created_at)
                for w in wishes[start : start + _AT_ONCE]
            ]
            kept += self.database.write(lambda c, part=part: [ratinglog.add(c, entry) for entry in part])
        return kept

    def undo(self, rater: Rater, *, key: str) -> Item | None:
        """Takes back what the rater said last, and gives the item back; None if there is nothing to take back."""
        _require_key(key)

        def work(connection: sa.Connection) -> Item | None:
            newest, _, _ = _newest(connection, self.id)
            done = ratinglog.read(connection, t.ratings.c.key == key)
            last = ratinglog.latest_of(connection, self.id, rater.id)
            if last is None and not done:
                return None
            item_key = done[0].item if done else last[1]
            item = itemtable.read(connection, self.id, [item_key])[0]
            ratinglog.add(connection, ratinglog.Entry(key, item, rater.id, newest, "undo", Judgement()))
            return item

        return self.database.write(work)

    def snapshot(self, history: bool = False) -> Snapshot:
        """Everything, in one state; ratings that hold, or with `history` all that ever were."""
        with self.database.reading() as connection:
            _, version, guidelines = _newest(connection, self.id)
            conditions = [] if history else [ratinglog.HOLDS]
            ratings = ratinglog.read(connection, t.items.c.project_id == self.id, *conditions)
            items = {item.key: item for item in itemtable.read(connection, self.id)}
            programs = sa.select(t.raters.c.name, t.raters.c.settings).where(t.raters.c.simulated)
            settings = {row.name: row.settings for row in connection.execute(programs)}
        return Snapshot(self.name, items, ratings, guidelines, version, settings)

    def progress(self) -> dict[str, Any]:
        """Counts of items and answers, for every rater what was rated, skipped and flagged, and the flagged items."""
        here = t.items.c.project_id == self.id
        items = sa.select(t.items.c.id).where(here)
        answers = sa.select(t.answers.c.id).join(t.items).where(here)
        rated = (
            sa.select(t.ratings.c.item_id)
            .join(t.items)
            .where(here, ratinglog.HOLDS, t.ratings.c.action == "rate")
        )
        with self.database.reading() as connection:
            _, version, guidelines = _newest(connection, self.id)
            counts = [
                connection.scalar(sa.select(sa.func.count()).select_from(rows.subquery()))
                for rows in (items, answers, rated.distinct())
            ]
            raters = [dict(row._mapping) for row in ratinglog.counts(connection, self.id)]
            flagged = ratinglog.read(connection, here, ratinglog.HOLDS, t.ratings.c.action == "flag")
        return {
            "project": self.name, "database": self.database.name, "guidelines": version,
            "criteria": [one.name for one in guidelines.criteria],
            **dict(zip(("items", "answers", "rated_items"), counts, strict=True)),
            "raters": [{"rater": row.pop("name"), **row} for row in raters],
            "flags": [{"item": one.item, "rater": one.rater, "comment": one.judgement.comment} for one in flagged],
        }  # fmt: skip


def _project_id(connection: sa.Connection, name: str) -> int | None:
    return connection.scalar(sa.select(t.projects.c.id).where(t.projects.c.name == name))


def _add_guidelines(connection: sa.Connection, project_id: int, version: int, guidelines: Guidelines) -> None:
    row = {"project_id": project_id, "version": version, "content": guidelines.model_dump(mode="json"),
           "created_at": ratinglog.now()}  # fmt: skip
    connection.execute(t.guidelines.insert(), row)


def _newest(connection: sa.Connection, project_id: int) -> tuple[int, int, Guidelines]:
    """Id, version and content of the newest guidelines."""
    row = connection.execute(
        sa.select(t.guidelines)
        .where(t.guidelines.c.project_id == project_id)
        .order_by(t.guidelines.c.version.desc())
        .limit(1)
    ).one()
    return row.id, row.version, Guidelines.model_validate(row.content)


def _require_name(name: str, what: str) -> None:
    if not (0 < len(name) <= 80 and name.isprintable() and name == name.strip()):
        raise UserError(f"{name[:80]!r} is no name for {what}", fix="give at most 80 printable characters")


def _require_key(key: str) -> None:
    if not (0 < len(key) <= t.ratings.c.key.type.length and key.isprintable()):
        raise UserError("a key is a short, printable text", where=f"key {key[:80]!r}")
