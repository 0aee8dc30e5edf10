"""Stores to try things on: SQLite in a folder, and a PostgreSQL of our own where its programs are installed."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sqlalchemy = pytest.importorskip("sqlalchemy", reason="the extra `feedback` is not installed")

from lmcraft.data.records import Message  # noqa: E402
from lmcraft.feedback.guidelines import Guidelines  # noqa: E402
from lmcraft.feedback.judgement import Answer, Item  # noqa: E402
from lmcraft.feedback.store import Project, Store  # noqa: E402

CRITERIA = [{"name": "coherence"}, {"name": "safety", "low": 0, "high": 1}]


def _programs() -> Path | None:
    """Where PostgreSQL's programs are; Debian keeps them out of PATH, one folder for each version."""
    on_path = shutil.which("initdb")
    if on_path:
        return Path(on_path).parent
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return found[-1].parent if found else None


def _somebody() -> list[str]:
    """What runs a command as an ordinary user: PostgreSQL refuses to be run by root."""
    if os.geteuid() != 0:
        return []
    name = "postgres" if any(user.pw_name == "postgres" for user in pwd.getpwall()) else "nobody"
    user = pwd.getpwnam(name)
    return ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The URL of a PostgreSQL server that nobody else uses, reached by a socket in its own folder."""
    pytest.importorskip("psycopg", reason="the extra `postgres` is not installed")
    programs = _programs()
    if programs is None:
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    folder = Path(tempfile.mkdtemp(prefix="lmcraft-pg-", dir="/tmp"))  # a socket's path must be short
    somebody = _somebody()
    if somebody:
        os.chown(folder, int(somebody[1].partition("=")[2]), int(somebody[2].partition("=")[2]))

    def call(program: str, *arguments: str) -> None:
        command = [*somebody, str(programs / program), "-D", str(folder / "data"), *arguments]
        done = subprocess.run(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                              stderr=subprocess.PIPE, text=True, timeout=120)  # fmt: skip
        assert done.returncode == 0, f"{command}\n{done.stderr}"

    settings = f"-c listen_addresses='' -c unix_socket_directories={folder} -c max_connections=60"
    try:
        call("initdb", "-U", "lmcraft", "-A", "trust", "--no-sync", "--encoding=UTF8", "--locale=C")
        call("pg_ctl", "-w", "-l", str(folder / "log"), "-o", settings, "start")
        yield f"postgresql://lmcraft@/postgres?host={folder}"
    finally:
        if (folder / "data" / "postmaster.pid").exists():
            call("pg_ctl", "-w", "-m", "immediate", "stop")
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def fresh(postgres: str) -> Iterator[str]:
    """An empty database on that server."""
    from lmcraft.feedback.database import _url

    name = f"t{os.urandom(6).hex()}"
    engine = sqlalchemy.create_engine(_url(postgres), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(sqlalchemy.text(f"CREATE DATABASE {name}"))
    engine.dispose()
    yield postgres.replace("/postgres?", f"/{name}?")


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of each kind."""
    if request.param == "sqlite":
        return str(tmp_path / "feedback.db")
    return request.getfixturevalue("fresh")


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    """An empty store of each kind."""
    with Store(url) as opened:
        yield opened


@pytest.fixture
def light(tmp_path: Path) -> Iterator[Store]:
    """An empty store in a file, for what does not depend on the database."""
    with Store(str(tmp_path / "feedback.db")) as opened:
        yield opened


@pytest.fixture(scope="session")
def asked() -> Callable[..., Item]:
    """Makes an item: a question, and answers of models a, b, …"""

    def make(question: str = "Hi?", *texts: str) -> Item:
        said = texts or (f"{question} yes", f"{question} no")
        return Item(
            (Message("user", question),), tuple(Answer(s, f"model-{'abcdef'[i]}") for i, s in enumerate(said))
        )

    return make


@pytest.fixture
def project(light: Store, asked: Callable[..., Item]) -> Project:
    """A project with two criteria and five items of two answers."""
    made = light.create("helpful", Guidelines.model_validate({"criteria": CRITERIA}))
    made.add([asked(f"question {i}") for i in range(5)], {"by": "a test"})
    return made
