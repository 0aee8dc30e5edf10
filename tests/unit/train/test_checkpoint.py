"""Checkpoints: what is saved is read back, the newest counts, old ones go, nothing is pickled."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from lmcraft.models import safetensors_file
from lmcraft.train import checkpoint
from lmcraft.train.checkpoint import Checkpoint, newest, save, verify


def made(step: int) -> Checkpoint:
    draw = torch.Generator().manual_seed(step)
    model = {"a.weight": torch.randn(6, 5, generator=draw), "b": torch.randn(3, generator=draw).bfloat16()}
    optimizer = {"0.1.step": torch.tensor(float(step)), "0.1.exp_avg": torch.randn(4, 4, generator=draw).mT}
    random = {"cpu": torch.randint(0, 255, (64,), dtype=torch.uint8, generator=draw)}
    state = {"read": 16 * step, "random": {"python": [3, [1, 2**32 - 1], None]}}
    return Checkpoint(step, {"model": model, "optimizer": optimizer, "random": random}, state)


def assert_same(found: Checkpoint | None, expected: Checkpoint) -> None:
    assert found is not None and found.step == expected.step
    assert found.tensors.keys() == expected.tensors.keys()
    for part, tensors in expected.tensors.items():
        assert found.tensors[part].keys() == tensors.keys()
        for name, tensor in tensors.items():
            assert found.tensors[part][name].dtype == tensor.dtype
            assert torch.equal(found.tensors[part][name], tensor), name
    assert {k: v for k, v in found.state.items() if k != "step"} == expected.state


def steps(folder: Path) -> list[int]:
    return sorted(int(path.name.removeprefix("step-")) for path in folder.glob("step-*"))


def test_what_is_saved_is_read_back(tmp_path):
    """A difference would mean that a resumed run begins from another state."""
    save(tmp_path / "new" / "folder", made(7), keep=2)
    found, faults = newest(tmp_path / "new" / "folder")
    assert_same(found, made(7))
    assert faults == []


def test_an_empty_part_is_kept(tmp_path):
    """A failure would mean that an optimizer without state cannot be saved."""
    save(tmp_path, Checkpoint(1, {"model": made(1).tensors["model"], "optimizer": {}}, {}), keep=1)
    found, _ = newest(tmp_path)
    assert found is not None and found.tensors["optimizer"] == {}


@pytest.mark.parametrize("folder", ["", "missing"])
def test_no_checkpoint_is_no_error(tmp_path, folder):
    """A failure would mean that a first start crashes."""
    assert newest(tmp_path / folder) == (None, [])


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_only_the_newest_are_kept(tmp_path, keep):
    """A failure would mean that a long run fills the disk, or that too little is kept."""
    for step in range(1, 8):
        save(tmp_path, made(step), keep)
        assert steps(tmp_path) == list(range(max(1, step - keep + 1), step + 1))
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"step-{s:08d}" for s in steps(tmp_path)]


def test_newest_is_by_step_not_by_time_or_name(tmp_path):
    """A failure would mean that a wrong clock, or a ninth digit, sends training back."""
    for step in (100_000_000, 99_999_999):
        save(tmp_path, made(step), keep=5)
    os.utime(tmp_path / "step-100000000", (0, 0))
    found, _ = newest(tmp_path)
    assert found is not None and found.step == 100_000_000


def test_strangers_are_left_alone(tmp_path):
    """A failure would mean that a folder the user put there is read, deleted, or crashes the start."""
    for name in ("step-old", "step-", "notes"):
        (tmp_path / name).mkdir()
    for step in (1, 2, 3):
        save(tmp_path, made(step), keep=1)
    assert {path.name for path in tmp_path.iterdir()} == {"step-old", "step-", "notes", "step-00000003"}


def test_the_same_step_is_not_written_again(tmp_path, monkeypatch):
    """A failure would mean that leaving the loop right after a save writes everything twice."""
    path = save(tmp_path, made(3), keep=1)
    before = (path / "manifest.json").stat().st_mtime_ns
    monkeypatch.setattr(safetensors_file, "write", lambda *_: pytest.fail("written again"))
    assert save(tmp_path, made(3), keep=1) == path
    assert (path / "manifest.json").stat().st_mtime_ns == before


def test_everything_is_on_disk_before_the_name_appears(tmp_path, monkeypatch):
    """A failure would mean that a power cut after the rename leaves a checkpoint with empty files."""
    events: list[str] = []
    fsync, rename = os.fsync, os.rename
    name_of = "/proc/self/fd/{}".format
    monkeypatch.setattr(
        os, "fsync", lambda fd: (events.append(Path(os.readlink(name_of(fd))).name), fsync(fd))[-1]
    )
    monkeypatch.setattr(os, "rename", lambda a, b: (events.append("RENAME"), rename(a, b))[-1])
    if not Path("/proc/self/fd").exists():
        pytest.skip("needs /proc to see which file is forced to disk")
    path = save(tmp_path, made(1), keep=1)
    cut = events.index("RENAME")
    assert set(events[:cut]) >= {file.name for file in path.iterdir()} | {f".{path.name}.tmp"}
    assert events[cut - 2 : cut] == [
        "manifest.json",
        f".{path.name}.tmp",
    ]  # the manifest last, then the folder
    assert events[cut + 1 :] == [tmp_path.name]


def test_nothing_is_pickled(tmp_path):
    """A failure would mean that a checkpoint from someone else can run code."""
    path = save(tmp_path, made(1), keep=1)
    assert {file.suffix for file in path.iterdir()} == {".safetensors", ".json"}
    source = Path(checkpoint.__file__).read_text(encoding="utf-8")
    assert "torch.load" not in source and "import pickle" not in source


def test_verify_is_silent_about_a_good_one(tmp_path):
    """A failure would mean that good checkpoints are passed over."""
    assert verify(save(tmp_path, made(1), keep=1)) is None
