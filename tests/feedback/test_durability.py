"""Killed writers and repeated requests: what was acknowledged is there, once; on SQLite and on PostgreSQL."""

from __future__ import annotations

import random
import shutil
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy

from lmcraft.feedback.guidelines import Guidelines
from lmcraft.feedback.judgement import Item, Judgement, Rating
from lmcraft.feedback.store import Project, Store

WRITERS = Path(__file__).with_name("writers.py")


@pytest.mark.parametrize("kills", [50, pytest.param(200, marks=pytest.mark.long)])
def test_nothing_acknowledged_is_lost_when_writers_are_killed(
    url: str, tmp_path: Path, asked: Callable[..., Item], kills: int
) -> None:
    """If this failed, a rating that a person was thanked for would be gone, or counted twice, after a crash."""
    with Store(url) as store:
        project = store.create("durable", Guidelines())
        project.add([asked(str(number)) for number in range(2000)], {})
    command = [sys.executable, str(WRITERS), url, str(tmp_path), "8", str(kills), "7"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr

    acknowledged = [key for file in tmp_path.glob("*.ack") for key in file.read_text().split()]
    attempted = {key for file in tmp_path.glob("*.ask") for key in file.read_text().split()}
    with Store(url) as store:
        found = store.project("durable").snapshot(history=True)
    kept = Counter(rating.key for rating in found.ratings)
    assert len(set(acknowledged)) > kills, "the writers wrote too little for the test to mean anything"
    assert set(acknowledged) <= kept.keys(), "lost"
    assert kept.keys() <= attempted, "made up"
    assert set(kept.values()) == {1}, "doubled"
    assert len({(rating.rater, rating.item) for rating in found.ratings}) == len(found.ratings), "voted twice"
    for rating in found.ratings:
        assert rating.judgement == Judgement(choice=int(rating.key.rpartition("-")[2]) % 2), "torn"
    if "://" not in url:
        with sqlite3.connect(url) as handle:
            assert handle.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        handle.close()


@pytest.mark.parametrize(("keys", "tries"), [(60, 10), pytest.param(500, 20, marks=pytest.mark.long)])
def test_retries_in_any_order_give_one_row_each(
    url: str, asked: Callable[..., Item], keys: int, tries: int
) -> None:
    """If this failed, a client that repeats a request after a timeout would vote several times."""
    with Store(url) as store:
        project = store.create("durable", Guidelines())
        project.add([asked(str(number)) for number in range(keys)], {})
        rater = store.rater("ann")
        items = project.open_items(rater)
        requests = [number for number in range(keys) for _ in range(tries)]
        random.Random(3).shuffle(requests)

        def send(number: int) -> str:
            return project.rate(rater, items[number], Judgement(choice=0), key=f"key-{number}").created_at

        with ThreadPoolExecutor(4) as pool:
            replies = list(pool.map(send, requests))
        ratings = project.snapshot(history=True).ratings
        assert sorted(rating.key for rating in ratings) == sorted(f"key-{number}" for number in range(keys))
        kept = {rating.key: rating.created_at for rating in ratings}
        assert [kept[f"key-{number}"] for number in requests] == replies, (
            "a retry was answered with another row"
        )


@pytest.mark.parametrize("moment", range(4))
def test_a_retry_finds_what_another_connection_commits_while_it_looks(
    fresh: str, asked: Callable[..., Item], moment: int
) -> None:
    """If this failed, a client that repeats a request would now and then be told that it has voted already."""
    with Store(fresh) as store, Store(fresh) as other:
        project = store.create("durable", Guidelines())
        project.add([asked()], {})
        rater = store.rater("ann")
        item = project.next(rater)
        there = other.project("durable")
        statements: list[Rating | None] = []

        def vote(where: Project) -> Rating:
            return where.rate(rater, item, Judgement(choice=0), key="the same")

        def interrupt(*_: object) -> None:
            statements.append(vote(there) if len(statements) == moment else None)

        sqlalchemy.event.listen(store.database.engine, "before_cursor_execute", interrupt)
        found = vote(project)
        assert len(statements) > moment, "the vote was over before the other one could come"
        assert found == statements[moment]
        assert project.snapshot(history=True).ratings == [found]


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_the_disk_has_the_rating_before_it_is_acknowledged(
    tmp_path: Path, asked: Callable[..., Item]
) -> None:
    """If this failed, a power cut after the thanks could take the rating back: killed writers would not show that."""
    url, acks = str(tmp_path / "feedback.db"), tmp_path / "acks"
    with Store(url) as store:
        store.create("durable", Guidelines()).add([asked(str(number)) for number in range(20)], {})
    source = f"""
import os
from lmcraft.feedback.judgement import Judgement
from lmcraft.feedback.store import Store
acks = os.open({str(acks)!r}, os.O_WRONLY | os.O_CREAT)
with Store({url!r}) as store:
    project, ann = store.project("durable"), store.rater("ann")
    for number, item in enumerate(project.open_items(ann)):
        project.rate(ann, item, Judgement(choice=0), key=str(number))
        os.write(acks, b"kept")
"""
    trace = tmp_path / "trace"
    watch = ["strace", "-f", "-y", "-e", "trace=write,fsync,fdatasync", "-o", str(trace)]
    done = subprocess.run([*watch, sys.executable, "-c", source], capture_output=True, text=True, timeout=120)
    if "ptrace" in done.stderr.lower():
        pytest.skip("tracing is not permitted here")
    assert done.returncode == 0, done.stderr
    synced, kept = False, 0
    for line in trace.read_text().splitlines():
        if "sync(" in line and "feedback.db-wal" in line:
            synced = True
        elif "write(" in line and str(acks) in line:
            assert synced, f"acknowledged rating {kept} before the log was on the disk"
            synced, kept = False, kept + 1
    assert kept == 20


def test_one_rater_in_many_threads_still_votes_once(url: str, asked: Callable[..., Item]) -> None:
    """If this failed, a double click could count as two opinions of one person."""
    with Store(url) as store:
        project = store.create("durable", Guidelines())
        project.add([asked()], {})
        rater = store.rater("ann")
        item = project.next(rater)

        def send(number: int) -> str:
            try:
                return project.rate(rater, item, Judgement(choice=0), key=f"click-{number}").key
            except Exception as error:
                return str(error).partition("\n")[0]

        with ThreadPoolExecutor(8) as pool:
            replies = Counter(pool.map(send, range(16)))
        assert replies.pop("this rater has rated this item already") == 15
        assert [rating.key for rating in project.snapshot(history=True).ratings] == list(replies)


def test_many_processes_may_open_a_new_database_at_once(url: str) -> None:
    """If this failed, two commands that start together would spoil the tables, or one would end with an error."""
    source = f"from lmcraft.feedback.store import Store\nwith Store({url!r}) as s: s.rater('ann')"
    started = [
        subprocess.Popen([sys.executable, "-c", source], stderr=subprocess.PIPE, text=True) for _ in range(3)
    ]
    for process in started:
        _, said = process.communicate(timeout=120)
        assert process.returncode == 0, said
