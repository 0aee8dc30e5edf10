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


def test_a_full_disk_refuses_and_goes_on_when_there_is_space(tmp_path: Path) -> None:
    """If this failed, a full disk would lose what was acknowledged, or the program would have to be started again."""
    added = 0

    def add(connection: sa.Connection) -> None:
        connection.execute(tables.projects.insert(), {"name": f"{added} " + "x" * 3000, "created_at": "now"})

    with Database(str(tmp_path / "a.db")) as opened:
        with opened.reading() as connection:  # the pool has one connection, which keeps the limit
            connection.exec_driver_sql("PRAGMA max_page_count=40")
        with pytest.raises(UserError, match="full") as told:
            while added < 10_000:
                opened.write(add)
                added += 1
        assert added and "free some space" in told.value.fix
        with opened.reading() as connection:
            connection.exec_driver_sql("PRAGMA max_page_count=1000000")
        opened.write(add)
        with opened.reading() as connection:
            assert connection.scalar(sa.select(sa.func.count()).select_from(tables.projects)) == added + 1


def test_work_is_done_again_when_the_connection_breaks(fresh: str) -> None:
    """If this failed, a server that restarts would cost a rater the item on the screen."""
    tries = []
    with Database(fresh) as opened:

        def add(connection: sa.Connection) -> None:
            tries.append(connection.scalar(sa.text("SELECT pg_backend_pid()")))
            if len(tries) == 1:
                with opened.engine.connect() as other:
                    other.execute(sa.text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": tries[0]})
            connection.execute(tables.projects.insert(), {"name": "p", "created_at": "now"})

        opened.write(add)
        with opened.reading() as connection:
            assert connection.scalar(sa.select(sa.func.count()).select_from(tables.projects)) == 1
    assert len(set(tries)) == 2
