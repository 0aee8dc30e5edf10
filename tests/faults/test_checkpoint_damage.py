"""Torn, rotten and half-written checkpoints are noticed, named and passed over; the one before is used."""

from __future__ import annotations

import errno
import os
import random
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from lmcraft.core.errors import UserError
from lmcraft.models import safetensors_file
from lmcraft.train import checkpoint
from lmcraft.train.checkpoint import Checkpoint, newest, save, verify


def made(step: int) -> Checkpoint:
    draw = torch.Generator().manual_seed(step)
    return Checkpoint(
        step,
        {
            "model": {"w": torch.randn(7, 5, generator=draw)},
            "optimizer": {"0.0.m": torch.randn(7, 5, generator=draw)},
        },
        {"read": step, "random": {"numpy": list(range(20))}},
    )


@pytest.fixture
def folder(tmp_path) -> Path:
    for step in (1, 2):
        save(tmp_path, made(step), keep=2)
    return tmp_path


FILES = ["model.safetensors", "optimizer.safetensors", "state.json", "manifest.json"]


def falls_back(folder: Path, damaged: Path) -> None:
    found, faults = newest(folder)
    assert found is not None and found.step == 1
    assert torch.equal(found.tensors["model"]["w"], made(1).tensors["model"]["w"])
    assert len(faults) == 1 and str(damaged.parent) in faults[0]


@pytest.mark.parametrize("name", FILES)
def test_truncation_is_noticed_at_every_length(folder, name):
    """A failure would mean that a run resumes from a torn file after a crash."""
    file = folder / "step-00000002" / name
    whole = file.read_bytes()
    lengths = {0, 1, len(whole) - 1, len(whole) // 2, *random.Random(0).sample(range(len(whole)), 40)}
    for length in lengths:
        file.write_bytes(whole[:length])
        falls_back(folder, file)
    file.write_bytes(whole + b"\n" if name != "manifest.json" else whole[:-1])
    falls_back(folder, file)
    file.unlink()
    falls_back(folder, file)


@pytest.mark.parametrize("name", FILES)
def test_every_single_flipped_bit_is_noticed(folder, name):
    """A failure would mean that a rotten disk changes weights without anybody knowing."""
    path = folder / "step-00000002"
    whole = (path / name).read_bytes()
    draw = random.Random(1)
    bits = range(len(whole) * 8) if name == "manifest.json" else draw.sample(range(len(whole) * 8), 250)
    for bit in bits:
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << (bit % 8)
        (path / name).write_bytes(flipped)
        assert verify(path) is not None, f"bit {bit} of {name}"
    falls_back(folder, path / name)


def test_all_damaged_means_none_and_all_are_named(folder):
    """A failure would mean that training starts from a broken state, or from nothing without a word."""
    for path in folder.glob("step-*"):
        (path / "state.json").write_text("{}")
    found, faults = newest(folder)
    assert found is None and len(faults) == 2


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_file_is_a_fault(folder):
    """A failure would mean a traceback instead of the checkpoint before."""
    (folder / "step-00000002" / "model.safetensors").chmod(0)
    falls_back(folder, folder / "step-00000002" / "model.safetensors")


def test_an_io_error_is_a_fault(folder, monkeypatch):
    """A failure would mean that a dying disk stops a run that has a good checkpoint."""
    real = Path.open

    def failing(self, *arguments, **settings):
        if self.parent.name == "step-00000002" and self.name == "model.safetensors":
            raise OSError(errno.EIO, "Input/output error", str(self))
        return real(self, *arguments, **settings)

    monkeypatch.setattr(Path, "open", failing)
    falls_back(folder, folder / "step-00000002" / "model.safetensors")


def test_a_damaged_checkpoint_is_replaced_when_its_step_comes_again(folder):
    """A failure would mean that the damaged one blocks the good one for ever."""
    (folder / "step-00000002" / "state.json").write_text("torn")
    save(folder, made(2), keep=2)
    found, faults = newest(folder)
    assert found is not None and found.step == 2 and faults == []


def test_damaged_ones_do_not_count_as_kept(tmp_path):
    """A failure would mean that `keep=2` keeps one good checkpoint and one that nobody can read."""
    for step in (1, 2, 3):
        save(tmp_path, made(step), keep=3)
    (tmp_path / "step-00000003" / "state.json").write_text("torn")
    save(tmp_path, made(4), keep=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000002", "step-00000004"]


def test_the_only_valid_one_is_never_deleted(tmp_path, monkeypatch):
    """A failure would mean losing a run to a full disk (transformers#25129): the new one must be good first."""
    save(tmp_path, made(1), keep=1)
    write = checkpoint._write_parts

    def torn_afterwards(folder, *others):
        sums = write(folder, *others)
        (folder / "model.safetensors").write_bytes(b"torn by the disk after it was written")
        return sums

    monkeypatch.setattr(checkpoint, "_write_parts", torn_afterwards)
    for step in (2, 3):
        save(tmp_path, made(step), keep=1)
        found, _ = newest(tmp_path)
        assert found is not None and found.step == 1


def test_leftovers_of_a_killed_save_are_swept(folder):
    """A failure would mean that every kill during a save costs disk space for ever, or blocks the next save."""
    for name in (".step-00000003.tmp", ".step-00000002.tmp"):
        shutil.copytree(folder / "step-00000002", folder / name)
    found, faults = newest(folder)
    assert found is not None and found.step == 2 and faults == []
    save(folder, made(3), keep=2)
    assert sorted(p.name for p in folder.iterdir()) == ["step-00000002", "step-00000003"]


CALLS = ["write", "_sync_and_hash", "_sync_folder", "rename", "write_text", "mkdir"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
@pytest.mark.parametrize("call", CALLS)
def test_a_failing_disk_leaves_the_previous_one_and_is_told(folder, monkeypatch, call, code):
    """A failure would mean a lost run, a traceback, or a disk that stays full of half a checkpoint."""
    owner = {"write": safetensors_file, "rename": os, "write_text": Path, "mkdir": Path}.get(call, checkpoint)

    def failing(*arguments, **settings):
        if call == "mkdir" and settings.get("exist_ok"):  # the folder itself is there already
            return
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(owner, call, failing)
    with pytest.raises(UserError) as caught:
        save(folder, made(3), keep=2)
    monkeypatch.undo()
    assert str(folder) in caught.value.where
    if code != errno.EIO:
        assert "full" in caught.value.what and "bytes" in caught.value.why
    found, faults = newest(folder)
    if call == "_sync_folder":  # fails before and after the rename alike
        assert found is not None and found.step in (2, 3)
    else:
        assert found is not None and found.step == 2
    assert faults == []
    assert len([p for p in folder.iterdir() if not p.name.startswith("step-")]) <= 1
    save(folder, made(4), keep=2)
    found, _ = newest(folder)
    assert found is not None and found.step == 4
    assert not list(folder.glob(".*"))


def test_room_is_checked_before_the_first_step(tmp_path, monkeypatch):
    """A failure would mean that hours of training end at the first save."""
    from lmcraft.core import disk
    from lmcraft.models import decoder, model
    from lmcraft.train import loop

    net = model.build(decoder.Config(vocab=11, context=4, layers=1, width=8, heads=2))
    size = 3 * 4 * sum(parameter.numel() for parameter in net.parameters())
    monkeypatch.setattr(disk, "free_bytes", lambda path: size - 1)
    config = loop.Config(steps=3, batch_size=1, lr=1e-3, precision="fp32")
    with pytest.raises(UserError, match="disk is full") as caught:
        next(loop.train(None, net, None, config, tmp_path, lambda text: None))
    assert str(tmp_path) in caught.value.where and f"{size:,} bytes" in caught.value.why


@pytest.fixture
def tiny_disk(tmp_path):
    """A file system of 256 KiB, where the test may mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(place)]
    if os.geteuid() or not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)  # lazily: tensors may still map its files


def test_a_really_full_disk(tiny_disk):
    """A failure would mean that the error of the real system is not the one the tests above raise."""
    large = {"w": torch.randn(150, 150)}
    save(tiny_disk / "checkpoints", Checkpoint(1, {"model": large}, {}), keep=2)
    for _ in range(3):
        with pytest.raises(UserError, match="disk is full") as caught:
            save(tiny_disk / "checkpoints", Checkpoint(2, {"model": large, "optimizer": large}, {}), keep=2)
    assert str(tiny_disk) in caught.value.where and "bytes" in caught.value.why
    assert not list((tiny_disk / "checkpoints").glob(".*"))
    found, faults = newest(tiny_disk / "checkpoints")
    assert found is not None and faults == [] and torch.equal(found.tensors["model"]["w"], large["w"])
