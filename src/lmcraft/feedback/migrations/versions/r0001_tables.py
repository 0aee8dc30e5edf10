"""The first shape of the store: projects, guidelines, batches, items, answers, raters, ratings.

Proved by tests/feedback/test_database.py.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Makes every table of an empty database."""
    _tables_of_a_project()
    _tables_of_the_ratings()


def _key() -> sa.Column[int]:
    return sa.Column("id", sa.Integer, autoincrement=True, nullable=False)


def _made() -> sa.Column[str]:
    return sa.Column("created_at", sa.String(40), nullable=False)


def _text(name: str) -> sa.Column[str]:
    return sa.Column(name, sa.Text, nullable=False)


def _number(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.Integer, nullable=False)


def _to(table: str, column: str, other: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint([column], [f"{other}.id"], name=f"fk_{table}_{column}")


def _once(table: str, *columns: str) -> sa.UniqueConstraint:
    return sa.UniqueConstraint(*columns, name=f"uq_{table}_{'_'.join(columns)}")


def _main(table: str) -> sa.PrimaryKeyConstraint:
    return sa.PrimaryKeyConstraint("id", name=f"pk_{table}")


def _tables_of_a_project() -> None:
    op.create_table(
        "projects", _key(), sa.Column("name", sa.String(80), nullable=False), _made(),
        _main("projects"), _once("projects", "name"),
    )  # fmt: skip
    op.create_table(
        "guidelines", _key(), _number("project_id"), _number("version"), _text("content"), _made(),
        _main("guidelines"), _to("guidelines", "project_id", "projects"), _once("guidelines", "project_id", "version"),
    )  # fmt: skip
    op.create_table(
        "batches", _key(), _number("project_id"), sa.Column("key", sa.String(200), nullable=False), _text("source"),
        _made(), _main("batches"), _to("batches", "project_id", "projects"), _once("batches", "project_id", "key"),
    )  # fmt: skip
    op.create_table(
        "items", _key(), _number("project_id"), _number("batch_id"), sa.Column("key", sa.String(200), nullable=False),
        _text("prompt"), _main("items"), _to("items", "project_id", "projects"), _to("items", "batch_id", "batches"),
        _once("items", "project_id", "key"),
    )  # fmt: skip
    op.create_table(
        "answers", _key(), _number("item_id"), _number("place"), _text("text"), _text("model"), _text("source"),
        _main("answers"), _to("answers", "item_id", "items"), _once("answers", "item_id", "place"),
    )  # fmt: skip


def _tables_of_the_ratings() -> None:
    op.create_table(
        "raters", _key(), sa.Column("name", sa.String(80), nullable=False),
        sa.Column("simulated", sa.Boolean, nullable=False), _text("settings"), _made(),
        _main("raters"), _once("raters", "name"),
    )  # fmt: skip
    op.create_table(
        "ratings", _key(), sa.Column("key", sa.String(200), nullable=False),
        _number("item_id"), _number("rater_id"), _number("guidelines_id"),
        sa.Column("action", sa.String(10), nullable=False), _text("judgement"), _number("revision"),
        sa.Column("supersedes", sa.Integer), _made(),
        _main("ratings"), _once("ratings", "key"), _once("ratings", "supersedes"),
        _once("ratings", "item_id", "rater_id", "revision"),
        _to("ratings", "item_id", "items"), _to("ratings", "rater_id", "raters"),
        _to("ratings", "guidelines_id", "guidelines"), _to("ratings", "supersedes", "ratings"),
    )  # fmt: skip
    op.create_index("ix_ratings_rater_id", "ratings", ["rater_id"])
