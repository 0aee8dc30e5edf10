"""Opening: tables by migrations, the promises of durability switched on, and clear words when it cannot be."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from lmcraft.core.errors import UserError
from lmcraft.feedback import database, tables
from lmcraft.feedback.database import Database


def test_migrations_make_the_tables_that_the_code_uses(url: str) -> None:
    """If this failed, a database made by the migrations would lack a column or a constraint."""
    with Database(url) as opened, opened.reading() as connection:
        assert compare_metadata(MigrationContext.configure(connection), tables.metadata) == []
        made = sa.inspect(connection)
        for table in tables.metadata.sorted_tables:
            named = {c["name"] for c in made.get_unique_constraints(table.name)}
            named |= {c["name"] for c in made.get_foreign_keys(table.name)}
            assert named == {
                str(c.name) for c in table.constraints if not isinstance(c, sa.PrimaryKeyConstraint)
            }


def test_the_newest_migration_is_the_one_the_code_expects() -> None:
    """If this failed, opening would upgrade for ever, or stop before the last migration."""
    config = Config()
    config.set_main_option("script_location", str(database.MIGRATIONS))
    scripts = ScriptDirectory.from_config(config)
    assert scripts.get_heads() == [tables.REVISION]


def test_sqlite_waits_for_the_disk(tmp_path: Path) -> None:
    """If this failed, a power cut could take back ratings that were acknowledged."""
    with Database(str(tmp_path / "a.db")) as opened, opened.writing() as connection:
        facts = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }
    assert facts == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 60_000}


def test_a_reader_sees_one_state_and_holds_up_nobody(url: str) -> None:
    """If this failed, an export taken while people rate would be a mixture of two states."""
    count = sa.select(sa.func.count()).select_from(tables.projects)
    row = {"name": "p", "created_at": "now"}
    with Database(url) as opened:
        with opened.reading() as reader:
            assert reader.scalar(count) == 0
            with opened.writing() as writer:
                writer.execute(tables.projects.insert(), row)
            assert reader.scalar(count) == 0
        with opened.reading() as reader:
            assert reader.scalar(count) == 1


def test_a_block_that_fails_leaves_nothing(url: str) -> None:
    """If this failed, half of a batch could stay behind an error."""
    with Database(url) as opened:
        with pytest.raises(ZeroDivisionError), opened.writing() as writer:
            writer.execute(tables.projects.insert(), {"name": "p", "created_at": "now"})
            raise ZeroDivisionError
        with opened.reading() as reader:
            assert reader.scalar(sa.select(sa.func.count()).select_from(tables.projects)) == 0


def test_a_newer_database_is_refused(url: str) -> None:
    """If this failed, an old lmcraft would write into tables that it does not know."""
    with Database(url) as opened, opened.writing() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(UserError, match="newer lmcraft"):
        Database(url)


def test_what_cannot_be_a_database_is_told(tmp_path: Path) -> None:
    """If this failed, a wrong path would end in a traceback."""
    (tmp_path / "text.db").write_text("this is no database" * 100)
    (tmp_path / "file").write_text("")
    for given, what in (
        (str(tmp_path / "text.db"), "not a database"),
        (str(tmp_path), "unable to open"),
        (str(tmp_path / "file" / "a.db"), "cannot write"),
        ("mysql://host/name", "cannot be in mysql"),
        ("sqlite://", "cannot be in sqlite"),
        ("postgresql://host:port/name", "no address"),
        ("postgresql://nobody:secret@/none?host=/tmp/no-such-socket", "cannot be used"),
    ):
        with pytest.raises(UserError, match=what) as told:
            Database(given)
        assert "secret" not in str(told.value)


def test_a_damaged_file_is_told(tmp_path: Path) -> None:
    """If this failed, a rotten disk would look like a bug of ours."""
    path = tmp_path / "a.db"
    Database(str(path)).close()
    with sqlite3.connect(path) as handle:
        handle.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    handle.close()
    content = bytearray(path.read_bytes())
    content[4096:] = b"\xff" * (len(content) - 4096)
    path.write_bytes(content)
    with (
        pytest.raises(UserError, match="cannot be used"),
        Database(str(path)) as opened,
        opened.reading() as reader,
    ):
        reader.execute(sa.select(tables.projects)).all()
