"""Blobs: equal files share their bytes, damage does not spread, and only what nobody needs is removed."""

from __future__ import annotations

import hashlib
import os

import pytest

from lmcraft.data import blobs


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """A store of its own for each test."""
    monkeypatch.setenv("LMCRAFT_HOME", str(tmp_path))
    return tmp_path


def file(home, name, content):
    path = home / name
    path.write_bytes(content)
    return path


def test_equal_files_become_one(home):
    """A failure would mean that the same weights lie on the disk twice."""
    first, second = file(home, "a", b"same"), file(home, "b", b"same")
    sha256 = blobs.keep(first)
    assert sha256 == blobs.keep(second) == blobs.keep(first) == hashlib.sha256(b"same").hexdigest()
    assert first.samefile(second) and first.samefile(blobs.path(sha256)) and first.stat().st_nlink == 3
    assert first.stat().st_mode & 0o222 == 0
    assert [blob.name for blob in blobs.stored()] == [sha256]


def test_damage_does_not_spread(home):
    """A failure would mean that a good file is replaced by a rotten one of the same name."""
    sha256 = blobs.keep(file(home, "a", b"good"))
    blobs.path(sha256).chmod(0o644)
    blobs.path(sha256).write_bytes(b"rot!")
    assert not blobs.put(sha256, home / "c") and not (home / "c").exists()
    fresh = file(home, "b", b"good")
    blobs.keep(fresh)
    assert fresh.read_bytes() == b"good" and fresh.samefile(blobs.path(sha256))
    assert blobs.put(sha256, home / "c") and (home / "c").samefile(fresh)


def test_only_what_nobody_needs_goes(home):
    """A failure would mean that the bytes of an entry are removed, or those of a removed one stay."""
    linked, named, free = (
        blobs.keep(file(home, name, name.encode())) for name in ("linked", "named", "free")
    )
    (home / "named").unlink()
    (home / "free").unlink()
    (blobs.folder() / "notes.txt").write_text("not ours")
    assert blobs.collect({named}) == len(b"free")
    assert sorted(blob.name for blob in blobs.stored()) == sorted([linked, named])
    assert not blobs.path(free).exists() and (blobs.folder() / "notes.txt").exists()


def test_a_disk_without_hard_links(home, monkeypatch):
    """A failure would mean that nothing can be pulled onto such a disk."""

    def refuse(*_):
        raise OSError(95, "not supported")

    monkeypatch.setattr(os, "link", refuse)
    kept = file(home, "a", b"alone")
    assert blobs.keep(kept) == hashlib.sha256(b"alone").hexdigest()
    assert kept.read_bytes() == b"alone" and list(blobs.stored()) == []
    blobs.link(kept, home / "b")
    assert (home / "b").read_bytes() == b"alone" and not kept.samefile(home / "b")


@pytest.mark.parametrize(
    "text", ["", "../x", "A" * 64, "a" * 63, "a" * 65, "a" * 63 + "\n", "sha256:" + "a" * 57]
)
def test_only_digests_become_paths(text):
    """A failure would mean that a digest from a server names a file of its choice."""
    with pytest.raises(ValueError, match="not a SHA-256"):
        blobs.path(text)
