"""The store: an entry is whole or not there, a name is only ever a name, and what is missing is explained."""

from __future__ import annotations

import hashlib
import json
import multiprocessing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmcraft.core.errors import UserError
from lmcraft.data import store

FACTS = {
    "kind": "data",
    "content": "x.jsonl",
    "what": "a thing",
    "source": "me",
    "licence": "MIT",
    "counts": {"n": 1},
}


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """A store of its own for each test."""
    monkeypatch.setenv("LMCRAFT_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def put(name, content="hello"):
    with store.adding(name, FACTS) as folder:
        (folder / "x.jsonl").write_text(content)


def test_what_is_added_is_there(home):
    """A failure would mean that pulled data cannot be found, or that its origin and licence are lost."""
    assert store.entries() == [] and not store.has("thing")
    put("thing")
    stored = store.get("thing")
    assert store.has("thing") and store.entries() == [stored]
    assert stored.path == store.resolve("thing") == home / "store" / "thing" / "x.jsonl"
    assert stored.path.read_text() == "hello"
    assert (stored.source, stored.licence, stored.counts, stored.bytes) == ("me", "MIT", {"n": 1}, 5)
    assert stored.sha256 == hashlib.sha256(b"hello").hexdigest()
    assert json.loads((home / "store" / "thing" / "entry.json").read_text())["what"] == "a thing"


def test_what_fails_leaves_nothing(home):
    """A failure would mean that half a data set is taken for the whole."""
    with pytest.raises(RuntimeError), store.adding("thing", FACTS) as folder:
        (folder / "x.jsonl").write_text("half")
        raise RuntimeError
    assert not store.has("thing") and not [file for file in (home / "store").iterdir() if file.is_dir()]


def test_a_store_that_cannot_be_written(home):
    """A failure would mean a traceback when LMCRAFT_HOME is wrong or its disk is read-only."""
    home.write_text("a file, not a folder")
    with pytest.raises(UserError, match="cannot write"):
        put("thing")


def test_leftovers_of_a_killed_pull_are_removed(home):
    """A failure would mean that a pull which was killed blocks, or spoils, the next one."""
    leftover = home / "store" / ".thing.part"
    leftover.mkdir(parents=True)
    (leftover / "old").write_text("old")
    put("thing")
    assert not leftover.exists() and not (home / "store" / "thing" / "old").exists()


def test_what_is_there_is_replaced_whole():
    """A failure would mean that files of two versions are mixed."""
    put("thing", "old")
    put("thing", "new")
    assert store.resolve("thing").read_text() == "new"


def test_two_pulls_of_one_name(home):
    """A failure would mean that two processes write into one folder."""
    with store.adding("thing", FACTS) as folder:
        (folder / "x.jsonl").write_text("first")
        context = multiprocessing.get_context("spawn")
        with context.Pool(1) as pool:
            assert "being pulled by another process" in pool.apply(attempt, ("thing",))
            assert pool.apply(attempt, ("other",)) == "added"
    assert store.resolve("thing").read_text() == "first"


def attempt(name):
    """Adds in another process; returns what the user would read."""
    try:
        put(name, "second")
    except UserError as error:
        return str(error)
    return "added"


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x", "/etc", "a/b", "A", ".x", "x" * 65, "x\0", "x\n", "é", "a b"]
)
def test_names_reach_nowhere_else(name):
    """A failure would mean that a name given from outside becomes a path outside of the store."""
    assert not store.has(name)
    with pytest.raises(UserError, match="cannot be a name"):
        store.path(name)


@given(st.text(max_size=80))
def test_no_name_leaves_the_store(name):
    """A failure would mean that some string that nobody thought of does."""
    try:
        place = store.path(name)
    except UserError:
        return
    assert place.parent == store.folder() and place.resolve().parent == store.folder().resolve()


def test_a_path_that_exists_comes_first(tmp_path, monkeypatch):
    """A failure would mean that a name in the store hides the user's own file."""
    put("thing")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "thing").write_text("mine")
    assert store.resolve("thing").read_text() == store.resolve(tmp_path / "thing").read_text() == "mine"
    assert str(store.resolve("not/there.jsonl")) == "not/there.jsonl"


def test_what_is_missing_is_explained():
    """A failure would mean that the user does not learn how to get the data."""
    put("mythings")
    for name, words in {
        "chitchat": "lmcraft pull chitchat",
        "mything": "did you mean mythings?",
        "zzz": "`lmcraft models` lists what there is",
    }.items():
        with pytest.raises(UserError) as error:
            store.resolve(name)
        assert words in str(error.value)


@pytest.mark.parametrize("record", ["{}", '{"odd": 1}', "broken", "[]", "null"])
def test_a_damaged_record_is_named(home, record):
    """A failure would mean that one damaged entry ends in a traceback."""
    put("thing")
    (home / "store" / "thing" / "entry.json").write_text(record)
    with pytest.raises(UserError) as error:
        store.get("thing")
    assert "entry.json" in str(error.value)
