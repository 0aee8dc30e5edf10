"""Checkpoints that survive being killed: written aside, fsynced, checksummed, renamed; the newest valid one counts.

1. A checkpoint is a folder `step-00000042` with safetensors files, `state.json`, and `manifest.json` (written last)
   that holds the SHA-256 of every other file. No pickle anywhere.
2. It is written under a temporary name in the same folder; each file and the folder are fsynced before the rename and
   the parent after it. A kill at any moment leaves the earlier checkpoints as they were.
3. Reading verifies every checksum; a torn or flipped checkpoint is reported and the one before it is used.
4. A sharded one is written by all processes into one folder: a file of its own a process and part, and `shards.json`,
   which says which rows of which tensor stand in which file. It can be read by any number of processes.
5. Old ones are deleted only after the new one has been read back and verified.

Proved by tests/faults/test_kill.py, tests/faults/test_checkpoint_damage.py, tests/unit/train/test_checkpoint.py and
tests/parallel/test_sharded_checkpoints.py.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from ..core.errors import UserError
from ..core.run import writing
from ..models import safetensors_file
from ..models.safetensors_file import ToWrite
from . import mapped, shards
from .parallel import ALONE, Ranks

PREFIX = "step-"


@dataclass(frozen=True)
class Checkpoint:
    """What was saved: named tensors by part ("model", "optimizer", …) and a JSON state."""

    step: int
    tensors: Mapping[str, Mapping[str, Tensor]]
    state: dict[str, Any]


def save(
    folder: Path, checkpoint: Checkpoint, keep: int, ranks: Ranks = ALONE, sharded: bool = False
) -> Path:
    """Writes a checkpoint and then deletes all but the newest `keep` valid ones.

    All of `ranks` call this; unless it is `sharded`, the first one puts the tensors together and writes them.
    """
    final = folder / f"{PREFIX}{checkpoint.step:08d}"
    temporary = folder / f".{final.name}.tmp"
    if ranks.from_first(lambda: _begin(folder, final, temporary)):
        return final
    try:
        sums = _write_parts(temporary, checkpoint, ranks, sharded and ranks.together)
        ranks.from_first(lambda: _finish(temporary, final, checkpoint, sums))
    except BaseException:  # what fills the disk must not stay on it
        if ranks.first:
            shutil.rmtree(temporary, ignore_errors=True)
        raise
    ranks.from_first(lambda: _rotate(folder, final, keep))
    return final


def _begin(folder: Path, final: Path, temporary: Path) -> bool:
    """Makes the folder to write into; true if there is nothing to do."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        # Leftovers are of a process that was killed: the run's lock says that nobody writes now.
        for leftover in folder.glob(".*.tmp"):
            shutil.rmtree(leftover)
        if final.exists() and verify(final) is None:  # the same step is the same state
            return True
        temporary.mkdir()
    return False


def _write_parts(folder: Path, checkpoint: Checkpoint, ranks: Ranks, sharded: bool) -> dict[str, str]:
    """Writes the tensors; the checksum of every file, in every process."""
    sums: dict[str, str] = {}
    layout = {}
    for name, part in checkpoint.tensors.items():
        if sharded:
            layout[name] = {key: _rows(tensor, ranks.world) for key, tensor in part.items()}
            mine = {k: shards.own(t) for k, t in part.items() if shards.is_share(t) or ranks.first}
            file = _file(name, ranks.rank, ranks.world)
        else:
            whole = (
                (key, shards.full(tensor)) for key, tensor in part.items()
            )  # all processes take part in each
            mine = {key: tensor.cpu() for key, tensor in whole if ranks.first}
            file = f"{name}.safetensors"
        problem = None
        try:
            if sharded or ranks.first:
                sums[file] = _save_part(folder / file, mine)
            if sharded and ranks.first:
                text = json.dumps({"ranks": ranks.world, "parts": layout})
                sums["shards.json"] = _write_text(folder / "shards.json", text)
        except UserError as error:
            problem = error
        ranks.agree(problem)
    for others in ranks.exchange(json.dumps(sums).encode()):
        sums |= json.loads(others)
    return sums


def _save_part(file: Path, tensors: dict[str, Tensor]) -> str:
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    with writing(file.parent.parent, bytes_needed=size + (1 << 20)):
        entries = [ToWrite(n, t.dtype, tuple(t.shape), partial(_pieces, t)) for n, t in tensors.items()]
        safetensors_file.write(file, entries, {})
        return _sync_and_hash(file)


def _pieces(tensor: Tensor) -> Iterator[Tensor]:
    """Some numbers after others, so that no second copy of them is made; a mapped tensor is let go of at the end."""
    yield from tensor.contiguous().view(-1).split(safetensors_file.PIECE_BYTES)
    mapped.forget(tensor)


def _rows(tensor: Tensor, world: int) -> list[list[int]] | None:
    """First and last row (exclusive) of a tensor in each file; None where it stands whole in the first."""
    if not shards.is_share(tensor):
        return None
    spans = (shards.span(len(tensor), rank, world) for rank in range(world))
    return [[span.start, span.stop] for span in spans]


def _file(part: str, rank: int, world: int) -> str:
    return f"{part}-{rank + 1:05d}-of-{world:05d}.safetensors"


def _write_text(file: Path, text: str) -> str:
    with writing(file.parent.parent):
        file.write_text(text)
        return _sync_and_hash(file)


def _finish(temporary: Path, final: Path, checkpoint: Checkpoint, sums: dict[str, str]) -> None:
    """Everything but the tensors, and the name."""
    state = json.dumps({"step": checkpoint.step, **checkpoint.state})
    sums = {**sums, "state.json": _write_text(temporary / "state.json", state)}
    _write_text(temporary / "manifest.json", json.dumps({"sha256": dict(sorted(sums.items()))}, indent=2))
    with writing(final.parent):
        _sync_folder(temporary)
        if final.exists():  # an invalid one
            shutil.rmtree(final)
        os.rename(temporary, final)
        _sync_folder(final.parent)


def newest(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest valid checkpoint, or None; and what is wrong with the newer ones that were passed over."""
    path, faults = find(folder)
    return (None if path is None else read(Path(path))), faults


def find(folder: Path) -> tuple[str | None, list[str]]:
    """Where the newest valid checkpoint is, and the faults of newer ones."""
    faults = []
    for path in reversed(_steps(folder)):
        fault = verify(path)
        if fault is None:
            return str(path), faults
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


def read(path: Path) -> Checkpoint:
    """A checkpoint that is valid; the tensors of a sharded one are put together when they are asked for."""
    state = json.loads((path / "state.json").read_text())
    tensors: dict[str, Mapping[str, Tensor]]
    if (path / "shards.json").exists():
        layout = json.loads((path / "shards.json").read_text())
        tensors = {part: _Pieces(path, part, layout["ranks"], rows) for part, rows in layout["parts"].items()}
    else:
        tensors = {file.stem: load_file(file) for file in sorted(path.glob("*.safetensors"))}
    return Checkpoint(state["step"], tensors, state)


class _Pieces(Mapping[str, Tensor]):
    """One part of a sharded checkpoint; a tensor takes memory only when it is asked for."""

    def __init__(self, folder: Path, part: str, world: int, rows: dict[str, list[list[int]] | None]) -> None:
        self._files = [folder / _file(part, rank, world) for rank in range(world)]
        self._rows = rows

    def __getitem__(self, name: str) -> Tensor:
        rows = self._rows[name]
        if rows is None:
            return _tensor(self._files[0], name)
        pieces = [
            _tensor(file, name) for file, (start, stop) in zip(self._files, rows, strict=True) if start < stop
        ]
        return torch.cat(pieces) if pieces else _tensor(self._files[0], name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)


def _tensor(file: Path, name: str) -> Tensor:
    with safe_open(file, framework="pt") as opened:
        return opened.get_tensor(name)


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
