"""The Run directory: what every stage writes, locked while it is written and traceable to its parents.

```
config.yaml    complete          metrics.jsonl   one JSON object a line, in order of steps
origin.json    written last when a run is created, so its presence means "this is a run"
state.json     status and facts about progress       samples.jsonl   what the model said on the way
model/ or adapter/   checkpoints/   evals/   tensorboard/   report.html
```

1. A lock is a `flock` on `.lock`: the kernel drops it when its holder dies, however it dies, so none is ever stale.
   Forked children (data workers) close their copy, or a worker that outlives a killed trainer would keep the lock.
2. When training resumes, the rows after the step of its checkpoint are dropped, so a resumed log equals an
   uninterrupted one.
3. How files are written safely is `core/disk.py`; its functions can be imported from here as well.

Proved by tests/unit/core/test_run.py and tests/unit/core/test_run_crash.py.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import platform
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from .disk import (
    append_row,
    digest,
    free_bytes,
    free_space,
    fsync,
    read_json,
    read_rows,
    to_json,
    write_bytes,
    write_json,
    write_rows,
    write_text,
    writing,
)
from .errors import UserError

__all__ = [
    "Run",
    "append_row",
    "digest",
    "free_bytes",
    "free_space",
    "read_json",
    "read_rows",
    "to_json",
    "write_bytes",
    "write_json",
    "write_rows",
    "write_text",
    "writing",
]

LOCK_WAIT_S = (
    0.5  # a reader that probes the lock holds it for microseconds; a second trainer holds it for hours
)
PACKAGES = ("lmcraft", "torch", "numpy", "tokenizers", "safetensors", "pydantic")
_MADE_BY_CREATE = {
    ".lock",
    "config.yaml",
    "state.json",
    ".config.yaml.tmp",
    ".state.json.tmp",
    ".origin.json.tmp",
}
_held_locks: set[int] = set()


class Run:
    """A run directory. Get one from `Run.create` or `Run.open`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(
        cls,
        path: Path | str,
        config_text: str,
        parents: Sequence[Path | str] = (),
        seed: int = 0,
        command: Sequence[str] | None = None,
    ) -> Run:
        """Makes a new run; a half-made one, left by a crash of an earlier `create`, is made anew.

        Args:
            path: where; its parents are made too.
            config_text: the complete configuration, YAML.
            parents: runs, model directories or files it starts from; their content digests are recorded.
            seed: of everything random in it.
            command: what was asked for; by default the command line of this process.

        Raises:
            UserError: `path` is a run already, or holds something else, or a parent has no model yet.
        """
        run = cls(Path(path))
        with writing(run.path):
            run.path.mkdir(parents=True, exist_ok=True)
        with run.lock():
            run.refuse_to_overwrite()
            run.write_text("config.yaml", config_text)
            run.set_status("running", step=0)
            origin = {
                "parents": [_lineage(Path(parent), run.path) for parent in parents],
                "seed": seed,
                "command": list(sys.argv if command is None else command),
                "created": datetime.now(UTC).isoformat(timespec="seconds"),
                "python": platform.python_version(),
                "platform": platform.platform(),
                "packages": _versions(),
                "code": digest(Path(__file__).parents[1], pattern="*.py"),
            }
            run.write_json("origin.json", origin)
        return run

    @classmethod
    def open(cls, path: Path | str) -> Run:
        """The run that is at `path`."""
        if not cls.exists(path):
            raise UserError("this is not a run", where=str(path), why="it has no origin.json")
        return cls(Path(path))

    @staticmethod
    def exists(path: Path | str) -> bool:
        """Whether there is a (completely created) run at `path`."""
        return (Path(path) / "origin.json").is_file()

    @property
    def name(self) -> str:
        return self.path.resolve().name

    @property
    def origin(self) -> dict[str, Any]:
        return read_json(self.path / "origin.json")

    @property
    def config_text(self) -> str:
        return (self.path / "config.yaml").read_text(encoding="utf-8")

    @property
    def parents(self) -> list[Path]:
        """Where the parents were when this run was made; parents beside it are found again after both moved."""
        return [Path(os.path.normpath(self.path / parent["path"])) for parent in self.origin["parents"]]

    @property
    def state(self) -> dict[str, Any]:
        """What `set_status` wrote: `status`, `step` and other facts; "running" that nobody holds has died."""
        state = read_json(self.path / "state.json")
        if state["status"] == "running" and not self.is_locked():
            state["status"] = "interrupted"
        return state

    def set_status(self, status: str, **facts: Any) -> None:
        """Writes state.json: "running", "done" or "interrupted", and facts, added to those written before."""
        assert status in ("running", "done", "interrupted"), status
        file = self.path / "state.json"
        before = read_json(file) if file.exists() else {}
        self.write_json("state.json", {**before, "status": status, **facts})

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Holds the run for writing; a second writer, in this process or another, is refused at once."""
        with writing(self.path / ".lock"):
            handle = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        owner = os.getpid()
        try:
            if not _flock(handle, LOCK_WAIT_S):
                holder = os.pread(handle, 100, 0).decode(errors="replace").strip() or "unknown"
                raise UserError(
                    "this run is being written by another process",
                    where=str(self.path),
                    why=f"process {holder} holds its lock",
                    fix="wait for it, stop it, or choose another --out",
                )
            _held_locks.add(handle)
            with writing(self.path / ".lock"):
                os.ftruncate(handle, 0)
                os.pwrite(handle, f"{owner} on {platform.node()}".encode(), 0)
            yield
        finally:
            if owner == os.getpid():  # a forked child that leaves through here has closed its copy already
                _held_locks.discard(handle)
                os.close(handle)

    def is_locked(self) -> bool:
        """Whether some process is writing this run."""
        try:
            handle = os.open(self.path / ".lock", os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            return not _flock(handle, 0.0, fcntl.LOCK_SH)
        finally:
            os.close(handle)

    def write_text(self, name: str, text: str) -> Path:
        """Writes one file of the run, atomically; `name` may contain folders, such as "evals/choice.json"."""
        return write_text(self.path / name, text)

    def write_json(self, name: str, value: Any) -> Path:
        return write_text(self.path / name, to_json(value, indent=2) + "\n")

    def write_rows(self, name: str, rows: Iterable[Mapping[str, Any]]) -> int:
        return write_rows(self.path / name, rows)

    def append_metrics(self, row: Mapping[str, Any]) -> None:
        append_row(self.path / "metrics.jsonl", row)

    def append_sample(self, row: Mapping[str, Any]) -> None:
        append_row(self.path / "samples.jsonl", row)

    def metrics(self) -> list[dict[str, Any]]:
        """The rows of metrics.jsonl; a torn last line, which a crash leaves, is left out."""
        return read_rows(self.path / "metrics.jsonl")

    def samples(self) -> list[dict[str, Any]]:
        return read_rows(self.path / "samples.jsonl")

    def truncate_metrics(self, after_step: int) -> None:
        """Drops the rows of metrics.jsonl and samples.jsonl with a step greater than `after_step`."""
        for file in (self.path / "metrics.jsonl", self.path / "samples.jsonl"):
            if file.exists():
                rows = [row for row in read_rows(file) if row.get("step", 0) <= after_step]
                write_rows(file, rows)

    def sync(self) -> None:
        """Forces the logs to disk; called before a checkpoint counts, so a checkpoint never outlives its rows."""
        for file in (self.path / "metrics.jsonl", self.path / "samples.jsonl"):
            if file.exists():
                with writing(file):
                    fsync(file)

    def refuse_to_overwrite(self) -> None:
        """Raises a UserError if something is here already that is not a half-made run."""
        if self.exists(self.path):
            raise UserError("there is a run here already", where=str(self.path), fix="choose another --out")
        strangers = sorted({entry.name for entry in self.path.iterdir()} - _MADE_BY_CREATE)
        if strangers:
            raise UserError(
                "this directory is not a run and not empty",
                where=str(self.path),
                why=f"it contains {', '.join(strangers[:3])}",
                fix="choose another --out",
            )


def _flock(handle: int, wait_s: float, kind: int = fcntl.LOCK_EX) -> bool:
    deadline = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(handle, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.02)
        else:
            return True


def _lineage(parent: Path, run: Path) -> dict[str, Any]:
    """Path and content digest of a parent; a path beside the run is kept relative to it, so both can move together."""
    content = next((parent / part for part in ("model", "adapter") if (parent / part).is_dir()), parent)
    if not content.exists() or (content == parent and Run.exists(parent)):
        raise UserError(
            "there is no model here to start from",
            where=str(parent),
            why="the run has not finished" if parent.exists() else "it does not exist",
        )
    beside = parent.resolve().is_relative_to(run.resolve().parent)
    path = os.path.relpath(parent.resolve(), run.resolve()) if beside else str(parent.resolve())
    return {"path": path, "digest": digest(content)}


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def _drop_locks_in_child() -> None:
    for handle in _held_locks:
        with contextlib.suppress(OSError):
            os.close(handle)
    _held_locks.clear()


os.register_at_fork(after_in_child=_drop_locks_in_child)
