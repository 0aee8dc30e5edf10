"""Files are whole or absent, logs survive torn lines, and a full disk is told in words."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from lmcraft.core import disk
from lmcraft.core.errors import UserError


def test_a_file_is_replaced_in_one_step(tmp_path: Path) -> None:
    """If this failed, a reader (or a crash) could meet half a file, or a temporary file would stay."""
    file = tmp_path / "a" / "b.json"
    disk.write_json(file, {"x": 1})
    opened = file.open()
    disk.write_json(file, {"x": 2})
    assert json.load(opened) == {"x": 1}, "the old file was changed in place"
    opened.close()
    assert disk.read_json(file) == {"x": 2}
    assert [path.name for path in file.parent.iterdir()] == ["b.json"]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If this failed, a full disk would cost the old content too, or leave its garbage on the full disk."""
    file = disk.write_text(tmp_path / "a.txt", "old")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="the disk is full") as caught:
        disk.write_text(file, "new content")
    assert caught.value.where == str(file)
    assert "needs 11 bytes" in caught.value.why
    assert file.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(errno.EDQUOT, "quota"), "the disk is full"),
        (OSError(errno.EIO, "io"), "cannot write: Input/output error"),
        (PermissionError(errno.EACCES, "denied"), "cannot write: Permission denied"),
        (ValueError("Error while serializing: I/O error: No space left on device (os error 28)"), "the disk is full"),
    ],
)  # fmt: skip
def test_errors_of_the_disk_are_told_in_words(tmp_path: Path, error: Exception, told: str) -> None:
    """If this failed, a full disk would end in a traceback; safetensors wraps it in an error of its own."""
    with pytest.raises(UserError, match=told) as caught, disk.writing(tmp_path / "x", 10):
        raise error
    assert caught.value.where == str(tmp_path / "x")


def test_other_errors_pass(tmp_path: Path) -> None:
    """If this failed, our own bugs inside a write would be blamed on the disk."""
    with pytest.raises(FileNotFoundError), disk.writing(tmp_path):
        raise FileNotFoundError(errno.ENOENT, "gone")
    with pytest.raises(ZeroDivisionError), disk.writing(tmp_path):
        raise ZeroDivisionError


def test_space_is_checked_also_where_nothing_exists_yet(tmp_path: Path) -> None:
    """If this failed, a run that cannot fit would start, and stop after hours."""
    disk.free_space(tmp_path / "not" / "yet", 1)
    with pytest.raises(UserError, match="the disk is full") as caught:
        disk.free_space(tmp_path / "not" / "yet", 1 << 60)
    assert f"{1 << 60:,} bytes" in caught.value.why


def test_a_path_below_a_file_is_a_mistake_of_the_user(tmp_path: Path) -> None:
    """If this failed, `--out somefile/run` would end in a traceback."""
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        disk.write_text(tmp_path / "file" / "x", "")


def test_a_torn_line_is_left_out_and_cut_off(tmp_path: Path) -> None:
    """If this failed, a row after a crash would be glued to the torn one, and both would be lost."""
    file = tmp_path / "rows.jsonl"
    disk.append_row(file, {"step": 1})
    with file.open("a") as log:
        log.write('{"step": 2, "loss": 1.2' + "9" * 10_000)
    assert disk.read_rows(file) == [{"step": 1}]
    disk.append_row(file, {"step": 2})
    assert file.read_text() == '{"step": 1}\n{"step": 2}\n'


def test_a_log_of_only_a_torn_line(tmp_path: Path) -> None:
    """If this failed, a crash in the very first row would spoil the log for good."""
    file = tmp_path / "rows.jsonl"
    file.write_text('{"st')
    assert disk.read_rows(file) == []
    disk.append_row(file, {"step": 1})
    assert disk.read_rows(file) == [{"step": 1}]


def test_a_damaged_line_inside_is_told_with_its_number(tmp_path: Path) -> None:
    """If this failed, rot inside a log would be taken for a torn end and silently dropped."""
    file = tmp_path / "rows.jsonl"
    file.write_text('{"step": 1}\n{"st\n{"step": 3}\n')
    with pytest.raises(UserError) as caught:
        disk.read_rows(file)
    assert caught.value.where == f"{file}:2"


def test_a_row_that_does_not_fit_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If this failed, a disk that fills up in the middle of a row would leave half of it."""
    file = tmp_path / "rows.jsonl"
    disk.append_row(file, {"step": 1})
    write = os.pwrite

    def only_three_bytes(handle: int, content: bytes, offset: int) -> int:
        if len(content) < 10:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(handle, content[:3], offset)

    monkeypatch.setattr(os, "pwrite", only_three_bytes)
    with pytest.raises(UserError, match="the disk is full"):
        disk.append_row(file, {"step": 2})
    assert file.read_text() == '{"step": 1}\n'


def test_numbers_that_json_lacks_become_null() -> None:
    """If this failed, one NaN loss would make a document that most JSON readers refuse."""
    text = disk.to_json({"a": float("nan"), "b": [float("inf"), 1.5], "c": Path("x"), 3: (1,)})
    assert json.loads(text, parse_constant=pytest.fail) == {"a": None, "b": [None, 1.5], "c": "x", "3": [1]}


def test_damaged_json_is_a_mistake_with_a_line(tmp_path: Path) -> None:
    """If this failed, an edited state.json would end in a traceback."""
    (tmp_path / "a.json").write_text('{\n"a": 1,,\n}')
    with pytest.raises(UserError) as caught:
        disk.read_json(tmp_path / "a.json")
    assert caught.value.where == f"{tmp_path / 'a.json'}:2"
    with pytest.raises(UserError, match="cannot read"):
        disk.read_json(tmp_path / "none.json")


def test_a_digest_sees_names_and_contents(tmp_path: Path) -> None:
    """If this failed, a parent could be exchanged without its children noticing."""
    folder = tmp_path / "m"
    disk.write_text(folder / "a", "1")
    disk.write_text(folder / "sub" / "b", "2")
    before = disk.digest(folder)
    assert before == disk.digest(folder)
    (folder / "a").rename(folder / "c")
    renamed = disk.digest(folder)
    (folder / "c").write_text("2")
    assert len({before, renamed, disk.digest(folder)}) == 3
    assert disk.digest(folder / "c") == "d4735e3a265e16eee03f59718b9b5d03019c07d8b6c51f90da3a666eec13ab35"
