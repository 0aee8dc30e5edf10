"""Opens the database of the store, SQLite or PostgreSQL, brings its tables up to date, and says what is wrong with it.

1. SQLite: write-ahead log with synchronous=FULL, so a commit is on the disk before `writing` ends, and readers never
   wait for a writer. Writers begin with BEGIN IMMEDIATE and wait up to `BUSY_S` for each other; a transaction that read
   first and wrote later could be refused without a wait.
2. PostgreSQL: `reading` is REPEATABLE READ, one state of the whole database for as long as it lasts, as in SQLite.
3. Opening an old database upgrades it, inside one transaction and behind a lock, so that many processes may open it at
   once. A database of a newer lmcraft is refused.

Proved by tests/feedback/test_database.py and tests/feedback/test_durability.py.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy import exc

from ..core.disk import writing
from ..core.errors import UserError
from .tables import REVISION

DEFAULT = "runs/feedback.db"
BUSY_S = 60.0
MIGRATIONS = Path(__file__).parent / "migrations"
# The advisory lock of PostgreSQL behind which tables are upgraded: "lmcraft" in ASCII.
LOCK = 0x6C6D6372616674
TRIES = 5
T = TypeVar("T")
# What SQLite says when the disk or the file, not our code, is at fault.
_DISK = ("full", "readonly", "disk i/o", "unable to open", "malformed", "not a database", "locked")


class Database:
    """An open database; a context manager that closes it."""

    def __init__(self, url: str | None = None) -> None:
        """Opens `url`, LMCRAFT_FEEDBACK_DB or `DEFAULT`: a file, or postgresql://…; see the module's first lines."""
        self.url = _url(url or os.environ.get("LMCRAFT_FEEDBACK_DB") or DEFAULT)
        self.name = self.url.render_as_string(hide_password=True) if self.url.host else str(self.url.database)
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        if self.is_sqlite:
            _make_room(Path(str(self.url.database)))
        self.engine = _engine(self.url, self.is_sqlite, self.name)
        try:
            with self._told():
                self._upgrade()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Database:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Gives the connections back."""
        self.engine.dispose()

    @contextlib.contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """A transaction that sees one state of the database."""
        isolation = {} if self.is_sqlite else {"isolation_level": "REPEATABLE READ"}
        with (
            self._told(),
            self.engine.connect().execution_options(**isolation) as connection,
            connection.begin(),
        ):
            yield connection

    @contextlib.contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """A transaction that writes; when the block is left without an error, what it wrote is on the disk."""
        options = {"immediate": True} if self.is_sqlite else {}
        with (
            self._told(),
            self.engine.connect().execution_options(**options) as connection,
            connection.begin(),
        ):
            yield connection

    def write(self, work: Callable[[sa.Connection], T]) -> T:
        """Does `work` in a writing transaction, anew if another process was first or the connection broke.

        `work` must bear being done twice: it looks for its own keys before it adds a row.
        """
        for _ in range(TRIES - 1):
            try:
                with self.writing() as connection:
                    return work(connection)
            except exc.IntegrityError:
                continue
            except UserError as error:
                if not _is_lost(error.__cause__):
                    raise
        with self.writing() as connection:
            return work(connection)

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """Turns what is wrong with the database, and not with our code, into a UserError that names it."""
        try:
            yield
        except exc.DatabaseError as error:
            said = str(error.orig).strip().partition("\n")[0]
            disk = any(word in said.lower() for word in _DISK)
            if not (disk if self.is_sqlite else isinstance(error, exc.OperationalError)):
                raise
            raise self._unusable(said) from error

    def _unusable(self, said: str) -> UserError:
        if "full" in said.lower():
            fix = "free some space; what was acknowledged is kept, and the same command goes on"
        elif "locked" in said.lower():
            fix = "another program has held it for too long; try again when that has ended"
        elif self.is_sqlite:
            fix = "check the path, or name another one with --db"
        else:
            fix = "check that the server runs and lets you in"
        return UserError("the feedback database cannot be used", where=self.name, why=said, fix=fix)

    def _upgrade(self) -> None:
        with self.reading() as connection:
            found = _revision(connection)
        if found == REVISION:
            return
        if self.is_sqlite:
            self._write_ahead()
        with self.writing() as connection:
            if not self.is_sqlite:
                connection.execute(sa.text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
            found = _revision(connection)
            if found != REVISION:
                self._migrate(connection, found)

    def _migrate(self, connection: sa.Connection, found: str | None) -> None:
        from alembic import command
        from alembic.config import Config
        from alembic.script import ScriptDirectory

        config = Config(attributes={"connection": connection})
        config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
        known = {one.revision for one in ScriptDirectory.from_config(config).walk_revisions()}
        if found is not None and found not in known:
            raise UserError(
                "the feedback database was made by a newer lmcraft", where=self.name,
                why=f"its tables have the version {found}, this lmcraft knows {REVISION}", fix="update lmcraft",
            )  # fmt: skip
        command.upgrade(config, "head")

    def _write_ahead(self) -> None:
        """Switches the file to a write-ahead log, for good; SQLite does not wait by itself when others do the same."""
        deadline = time.monotonic() + BUSY_S
        while True:
            handle = sqlite3.connect(self.name, timeout=BUSY_S)
            try:
                handle.execute("PRAGMA journal_mode=WAL")
                return
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or time.monotonic() > deadline:
                    raise self._unusable(str(error)) from error
                time.sleep(0.01)
            finally:
                handle.close()


def _url(given: str) -> sa.URL:
    """A path is a file of SQLite; PostgreSQL is spoken to through psycopg, whatever driver the URL leaves out."""
    if "://" not in given:
        return sa.URL.create("sqlite", database=str(Path(given).expanduser()))
    try:
        url = sa.make_url(given)
        backend = url.get_backend_name()
    except (exc.ArgumentError, ValueError) as error:
        raise UserError("this is no address of a database", where="--db", why=str(error).partition("\n")[0],
                        fix="for example runs/feedback.db or postgresql://user@host/name") from error  # fmt: skip
    if backend == "sqlite" and url.database not in (None, "", ":memory:"):
        return url
    if backend in ("postgresql", "postgres"):
        return url.set(drivername="postgresql+psycopg")
    raise UserError(f"a feedback database cannot be in {given.partition(':')[0]} like this", where="--db",
                    fix="give a file, sqlite:///FILE or postgresql://user@host/name")  # fmt: skip


def _make_room(path: Path) -> None:
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)


def _engine(url: sa.URL, is_sqlite: bool, name: str) -> sa.Engine:
    try:
        engine = sa.create_engine(url, **({} if is_sqlite else {"pool_pre_ping": True}))
    except ModuleNotFoundError as error:
        raise UserError("PostgreSQL needs a Python package that is not installed", where=name,
                        fix="pip install 'lmcraft[postgres]'") from error  # fmt: skip
    if is_sqlite:
        sa.event.listen(engine, "connect", _set_up)
        sa.event.listen(engine, "begin", _begin)
    return engine


def _set_up(handle: Any, _: object) -> None:
    handle.isolation_level = None  # or Python's driver would begin transactions in its own way
    for pragma in (f"busy_timeout={int(BUSY_S * 1000)}", "synchronous=FULL", "foreign_keys=ON"):
        handle.execute(f"PRAGMA {pragma}")


def _begin(connection: sa.Connection) -> None:
    immediate = connection.get_execution_options().get("immediate", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")


def _is_lost(cause: BaseException | None) -> bool:
    return isinstance(cause, exc.DBAPIError) and cause.connection_invalidated


def _revision(connection: sa.Connection) -> str | None:
    if not sa.inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()
