"""Catalog and fetching: what is taken out of a package is what was meant, and nothing of a package is ever run."""

from __future__ import annotations

import importlib
import json
import re

import pytest

from lmcraft.core.errors import UserError
from lmcraft.data import catalog, fetch
from lmcraft.data.catalog import Package
from lmcraft.data.load import load
from lmcraft.data.sources import chitchat, shakespeare

PACKAGE = Package("a-thing", "1.0", "wheel", "0" * 64, 100)


# -- the entries ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("entry", catalog.ENTRIES.values(), ids=lambda entry: entry.name)
def test_entries_are_complete(entry):
    """A failure would mean that an entry can be pulled unverified, or cannot be pulled at all."""
    assert re.fullmatch(r"[a-z][a-z0-9-]*", entry.name) and entry.kind in ("data", "model")
    assert entry.licence and entry.what and entry.packages
    for package in entry.packages:
        assert re.fullmatch("[0-9a-f]{64}", package.sha256) and package.archive in ("wheel", "sdist")
        assert package.bytes > 0
    if entry.converter:
        assert callable(importlib.import_module(f"lmcraft.data.sources.{entry.converter}").convert)
    elif entry.root:
        assert all(member.startswith(f"{entry.root}/{entry.content}/") for member in entry.members)
    else:
        assert [member.rpartition("/")[2] for member in entry.members] == [entry.content]


def test_an_unknown_name_gets_a_suggestion():
    """A failure would mean that a typo leaves the user without the list of names."""
    with pytest.raises(UserError) as error:
        catalog.entry("chitcat")
    assert "did you mean chitchat?" in str(error.value) and "shakespeare" in str(error.value)


def test_another_file_is_refused(tmp_path):
    """A failure would mean that a changed or wrong package is unpacked."""
    (tmp_path / "a.whl").write_bytes(b"another")
    with pytest.raises(UserError) as error:
        fetch.verify(tmp_path / "a.whl", PACKAGE)
    assert "0000" in str(error.value) and "never unpacked" in str(error.value)
    with pytest.raises(UserError, match="no such package file"):
        fetch.verify(tmp_path / "none.whl", PACKAGE)


# -- the converters -------------------------------------------------------------------------------------------------


def conversation(*said, **more):
    """A conversation as the source writes it: lists of messages by one sender."""
    return {
        "messages": [[{"sender": who, "text": text, "timestamp": ""}] for who, text in said],
        "start": "",
        **more,
    }


def test_chitchat(tmp_path):
    """A failure would mean that speakers are mixed up, or that private data is passed on."""
    source = {
        "1": conversation(("x", " hi "), ("x", "there"), ("x", "  "), ("y", "hello"), ("x", "bye"), prompt="p",
                          ratings={"witty": 5, "upbeat": 6, "interesting": 7}),
        "2": conversation(("x", "hi"), ("y", " ")),
        "3": conversation(("x", "mail me"), ("y", "at some.one@example.org")),
        "4": conversation(("x", "call (808) 555-0142"), ("y", "ok")),
        "5": conversation(("x", "a"), ("y", "b"), ("z", "c")),
        "6": conversation(("x", "in 2018 I ran 1000 miles, 555 more"), ("y", "wow"), prompt=""),
        "7": conversation(),
    }  # fmt: skip
    (tmp_path / "dataset.json").write_text(json.dumps(source))
    counts = chitchat.convert(tmp_path, tmp_path / "out.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert rows[0] == {
        "messages": [
            {"role": "user", "content": "hi\nthere"},
            {"role": "assistant", "content": "hello"},
            {"role": "user", "content": "bye"},
        ],
        "ratings": {"witty": 5, "upbeat": 6, "interesting": 7},
        "prompt": "p",
    }
    assert [row["messages"][0]["content"][:4] for row in rows] == ["hi\nt", "in 2"]
    assert rows[1]["ratings"] is None and rows[1]["prompt"] is None
    assert counts == {
        "conversations": 7, "dialogues": 2, "turns": 5, "rated": 1, "left out: one speaker only": 2,
        "left out: mail address or phone number": 2, "left out: more than two speakers": 1,
    }  # fmt: skip
    assert load(tmp_path / "out.jsonl").require().shape == "messages"


def test_shakespeare(tmp_path):
    """A failure would mean that a model learns licence texts as verse, or that works lose their titles."""
    gutenberg = (
        "*** START OF THIS PROJECT GUTENBERG EBOOK LEAR ***\r\n\r\nKING LEAR\r\n\r\nNothing.  \r\n"
        "*** END OF THIS PROJECT GUTENBERG EBOOK LEAR ***\r\nlicence\r\n"
    )
    (tmp_path / "lear_gut.txt").write_bytes(gutenberg.encode())
    (tmp_path / "a_lovers_complaint_gut.txt").write_bytes("\n  caf\xe9\n\nlast\n\n\n".encode("latin-1"))
    (tmp_path / "metadata.txt").write_text("[lear_gut]\ntitle = King Lear\nnotes = 100%\n")
    counts = shakespeare.convert(tmp_path, tmp_path / "out.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    assert rows == [
        {"text": "KING LEAR\n\nNothing.", "title": "King Lear"},
        {"text": "  café\n\nlast", "title": "a lovers complaint"},
    ]
    assert counts == {"works": 2, "characters": sum(len(row["text"]) for row in rows)}
