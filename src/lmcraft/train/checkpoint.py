"""Checkpoints that survive being killed: written aside, fsynced, checksummed, renamed; the newest valid one counts.

1. A checkpoint is a folder `step-00000042` with safetensors files, `state.json`, and `manifest.json` (written last)
   that holds the SHA-256 of every other file. No pickle anywhere.
2. It is written under a temporary name in the same folder; each file and the folder are fsynced before the rename and
   the parent after it. A kill at any moment leaves the earlier checkpoints as they were.
3. Reading verifies every checksum; a torn or flipped checkpoint is reported and the one before it is used.
4. Old ones are deleted only after the new one has been read back and verified.

Proved by tests/faults/test_kill.py, tests/faults/test_checkpoint_damage.py and tests/unit/train/test_checkpoint.py.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from ..core.run import writing

PREFIX = "step-"


@dataclass(frozen=True)
class Checkpoint:
    """What was saved: named tensors by part ("model", "optimizer", …) and a JSON state."""

    step: int
    tensors: dict[str, dict[str, Tensor]]
    state: dict[str, Any]


def save(folder: Path, checkpoint: Checkpoint, keep: int) -> Path:
    """Writes a checkpoint and then deletes all but the newest `keep` valid ones."""
    folder.mkdir(parents=True, exist_ok=True)
    for leftover in folder.glob(
        ".*.tmp"
    ):  # of a process that was killed: the run's lock says nobody writes now
        shutil.rmtree(leftover)
    final = folder / f"{PREFIX}{checkpoint.step:08d}"
    if final.exists() and verify(final) is None:  # the same step is the same state
        return final
    temporary = folder / f".{final.name}.tmp"
    size = sum(t.numel() * t.element_size() for part in checkpoint.tensors.values() for t in part.values())
    with writing(folder, bytes_needed=size + (1 << 20)):
        try:
            _write(temporary, checkpoint)
        except BaseException:  # what fills the disk must not stay on it
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        if final.exists():  # an invalid one
            shutil.rmtree(final)
        os.rename(temporary, final)
        _sync_folder(folder)
    _rotate(folder, final, keep)
    return final


def _write(folder: Path, checkpoint: Checkpoint) -> None:
    folder.mkdir()
    for name, part in checkpoint.tensors.items():
        save_file({key: tensor.contiguous() for key, tensor in part.items()}, folder / f"{name}.safetensors")
    (folder / "state.json").write_text(json.dumps({"step": checkpoint.step, **checkpoint.state}))
    sums = {path.name: _sync_and_hash(path) for path in sorted(folder.iterdir())}
    manifest = folder / "manifest.json"
    manifest.write_text(json.dumps({"sha256": sums}, indent=2))
    _sync_and_hash(manifest)
    _sync_folder(folder)


def newest(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest valid checkpoint, or None; and what is wrong with the newer ones that were passed over."""
    faults = []
    for path in reversed(_steps(folder)):
        fault = verify(path)
        if fault is None:
            return _read(path), faults
        faults.append(f"{path}: {fault}")
    return None, faults


def verify(path: Path) -> str | None:
    """What is wrong with a checkpoint, or None."""
    try:
        sums = json.loads((path / "manifest.json").read_text())["sha256"]
        for name, expected in sums.items():
            if _hash(path / Path(name).name) != expected:
                return f"{name} does not match its checksum"
        if "state.json" not in sums:
            return "manifest.json does not list state.json"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except OSError as error:
        return f"{Path(error.filename or path).name} cannot be read: {error.strerror}"
    except (ValueError, KeyError, TypeError, AttributeError):
        return "manifest.json is not readable"
    return None


def _read(path: Path) -> Checkpoint:
    state = json.loads((path / "state.json").read_text())
    tensors = {file.stem: load_file(file) for file in sorted(path.glob("*.safetensors"))}
    return Checkpoint(state["step"], tensors, state)


def _rotate(folder: Path, newest_path: Path, keep: int) -> None:
    others = [path for path in reversed(_steps(folder)) if path != newest_path]
    if len(others) < keep or verify(newest_path) is not None:
        return
    kept = 1
    for path in others:  # a damaged one does not count as kept
        if kept < keep and verify(path) is None:
            kept += 1
        else:
            shutil.rmtree(path)


def _steps(folder: Path) -> list[Path]:
    """Checkpoints in order of their steps."""
    found = [path for path in folder.glob(f"{PREFIX}*") if path.name.removeprefix(PREFIX).isdecimal()]
    return sorted(found, key=lambda path: int(path.name.removeprefix(PREFIX)))


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync_and_hash(path: Path) -> str:
    with path.open("rb") as file:
        os.fsync(file.fileno())
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
