"""`cp`, `rm`, `models`: two names for the same bytes, and what nobody needs goes."""

from __future__ import annotations

import json

import pytest

from lmcraft.data import blobs, store
from lmcraft.data.pull import web

ROWS = '{"text": "a text"}\n' * 40


@pytest.fixture
def mine(told, tmp_path):
    """An entry called mine, of one file."""
    (tmp_path / "here" / "mine.jsonl").write_text(ROWS)
    return told("pull", "mine.jsonl", "--licence", "CC0-1.0", "--json")


def test_a_copy_shares_its_bytes(mine, told):
    """A failure would mean that a second name costs the disk space of a model, or forgets licence and origin."""
    facts = told("cp", "mine", "yours", "--json")
    assert {**facts, "name": "", "path": "", "pulled": ""} == {
        **{key: value for key, value in mine.items() if key != "was_there"}, "name": "", "path": "", "pulled": "",
    }  # fmt: skip
    first, second = store.resolve("mine"), store.resolve("yours")
    assert first.samefile(second) and first.samefile(blobs.path(mine["sha256"]))
    assert "the name yours is taken" in told("cp", "mine", "yours", code=2)
    assert "nothing in the store called" in told("cp", "none", "x", code=2)


def test_what_others_share_stays(mine, told):
    """A failure would mean that removing one name destroys the other, or that nothing is ever freed."""
    told("cp", "mine", "yours")
    assert told("rm", "mine", "--json") == {"removed": ["mine"], "unfinished": 0, "freed_bytes": 0}
    assert store.resolve("yours").read_text() == ROWS and len(list(blobs.stored())) == 1
    assert "removed yours" in told("rm", "yours")
    assert store.entries() == [] and list(blobs.stored()) == []


def test_what_is_freed(mine, told):
    """A failure would mean that the user is told a wrong number."""
    assert told("rm", "mine", "--json")["freed_bytes"] == len(ROWS)


def test_nothing_else_is_removed(mine, told, tmp_path):
    """A failure would mean that a path or a typo costs a file, or that half of the names go."""
    for names in (["mine", "nine"], [tmp_path / "here" / "mine.jsonl"], ["."], [""], []):
        assert "error:" in told("rm", *names, code=2)
    assert store.has("mine") and (tmp_path / "here" / "mine.jsonl").exists()


def test_unfinished_downloads(mine, told):
    """A failure would mean that interrupted pulls fill the disk for ever, or that a plain rm throws them away."""
    web.folder().mkdir()
    (web.folder() / ("a" * 64 + ".part")).write_bytes(b"half")
    (web.folder() / ("b" * 64)).write_bytes(b"whole")
    told("rm", "mine")
    assert len(web.unfinished()) == 2
    assert "2 unfinished downloads" in told("models")
    assert told("rm", "--unfinished", "--json") == {"removed": [], "unfinished": 2, "freed_bytes": 9}
    assert web.unfinished() == [] and "unfinished" not in told("models")


def test_entries_of_the_first_layout(mine, told, home):
    """A failure would mean that what was pulled before there were blobs is lost, or stays for ever."""
    record = home / "store" / "mine" / "entry.json"
    facts = json.loads(record.read_text())
    del facts["files"]
    content = store.resolve("mine").read_bytes()
    record.write_text(json.dumps(facts))
    store.resolve("mine").unlink()
    (home / "store" / "mine" / "mine.jsonl").write_bytes(content)
    blobs.collect(set())
    assert list(blobs.stored()) == [] and store.get("mine").files == {}
    assert told("data", "mine", "--json")["records"] == 40
    told("models", "--check")
    told("cp", "mine", "yours")
    assert store.resolve("mine").samefile(store.resolve("yours"))
    told("rm", "mine")
    assert store.resolve("yours").read_text() == ROWS
    told("rm", "yours")
    assert store.entries() == [] and list(blobs.stored()) == []


def test_a_damaged_entry(mine, told):
    """A failure would mean that damage is copied under a new name, or that pulling again leaves it."""
    store.resolve("mine").chmod(0o644)
    store.resolve("mine").write_text(ROWS.replace("a text", "A text"))
    assert "is not what was stored" in told("cp", "mine", "yours", code=2)
    assert not store.has("yours")
    told("pull", "mine.jsonl", "--again")
    told("models", "--check")
    assert blobs.path(mine["sha256"]).read_text() == ROWS


def test_a_damaged_record_keeps_what_it_has(mine, told, home):
    """A failure would mean that a broken JSON file costs the data beside it."""
    told("cp", "mine", "yours")
    (home / "store" / "yours" / "entry.json").write_text("{}")
    told("rm", "mine")
    assert (home / "store" / "yours" / "mine.jsonl").read_text() == ROWS


def test_parts_of_data(mine, told, home):
    """A failure would mean that data which comes divided can only be used in part."""
    (home / "store" / "mine" / "test.jsonl").write_text('{"text": "b"}\n')
    assert told("data", "mine/test", "--json")["records"] == 1
    assert "it has mine/mine, mine/test" in told("data", "mine/valid", code=2)
    assert "lmcraft pull conll2003" in told("data", "conll2003/test", code=2)
    assert "no such data file" in told("data", "other/test.jsonl", code=2)
