"""The tables of the store, as SQLAlchemy writes and reads them; migrations/ brings a database to this shape.

    projects ─< guidelines            raters
        └────< batches ─< items ─< answers   └─< ratings (of an item, under guidelines)

1. `ratings` is a log: rows are added, never changed or deleted. What a rater says about an item is the row with the
   highest revision; undoing adds a row that supersedes it. (item, rater, revision) is unique, so two processes that
   act for one rater at once cannot both be the next revision.
2. `key` is what makes a retry harmless: the same key is the same row.
3. Texts from people and models are stored as JSON in ASCII. A column of PostgreSQL's text holds no NUL, JSON's escape
   of it is three plain letters to it, and what comes out is what went in, on every database.

Proved by tests/feedback/test_store.py.
"""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import (
    Boolean,
    Column,
    Dialect,
    ForeignKey,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
)

REVISION = "0001"  # the newest of migrations/versions


class Plain(TypeDecorator[Any]):
    """Any JSON value, kept as ASCII."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> str:
        return json.dumps(value, ensure_ascii=True, allow_nan=False)

    def process_result_value(self, value: str | None, dialect: Dialect) -> Any:
        return None if value is None else json.loads(value)


# Constraints have names, so that a later migration can name what it changes.
metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "ix": "ix_%(table_name)s_%(column_0_name)s",
    }
)


def _id() -> Column[int]:
    return Column("id", Integer, primary_key=True, autoincrement=True)


def _to(table: str, **options: Any) -> Column[int]:
    name = table if table == "guidelines" else table.removesuffix("es" if table == "batches" else "s")
    return Column(f"{name}_id", Integer, ForeignKey(f"{table}.id"), nullable=False, **options)


projects = Table(
    "projects", metadata, _id(),
    Column("name", String(80), nullable=False, unique=True),
    Column("created_at", String(40), nullable=False),
)  # fmt: skip

guidelines = Table(
    "guidelines", metadata, _id(), _to("projects"),
    Column("version", Integer, nullable=False),
    Column("content", Plain, nullable=False),
    Column("created_at", String(40), nullable=False),
    UniqueConstraint("project_id", "version"),
)  # fmt: skip

batches = Table(
    "batches", metadata, _id(), _to("projects"),
    Column("key", String(200), nullable=False),
    Column("source", Plain, nullable=False),  # where the items came from: a file, or models, prompts and seed
    Column("created_at", String(40), nullable=False),
    UniqueConstraint("project_id", "key"),
)  # fmt: skip

items = Table(
    "items", metadata, _id(), _to("projects"), _to("batches"),
    Column("key", String(200), nullable=False),
    Column("prompt", Plain, nullable=False),
    UniqueConstraint("project_id", "key"),
)  # fmt: skip

answers = Table(
    "answers", metadata, _id(), _to("items"),
    Column("place", Integer, nullable=False),
    Column("text", Plain, nullable=False),
    Column("model", Plain, nullable=False),
    Column("source", Plain, nullable=False),
    UniqueConstraint("item_id", "place"),
)  # fmt: skip

raters = Table(
    "raters", metadata, _id(),
    Column("name", String(80), nullable=False, unique=True),
    Column("simulated", Boolean, nullable=False),
    Column("settings", Plain, nullable=False),  # how a simulated one decides
    Column("created_at", String(40), nullable=False),
)  # fmt: skip

ratings = Table(
    "ratings", metadata, _id(),
    Column("key", String(200), nullable=False, unique=True),
    _to("items"), _to("raters", index=True), _to("guidelines"),
    Column("action", String(10), nullable=False),
    Column("judgement", Plain, nullable=False),
    Column("revision", Integer, nullable=False),
    Column("supersedes", Integer, ForeignKey("ratings.id"), unique=True),
    Column("created_at", String(40), nullable=False),
    UniqueConstraint("item_id", "rater_id", "revision"),
)  # fmt: skip
