"""Token shards on disk: documents as ids with what is trained and where they came from, read through memory maps.

One directory holds `tokens.npy` (uint16 or uint32), `trained.npy` (bool), `offsets.npy` (int64, one more than
documents), `lines.npy` and `files.npy` (where each document came from) and `meta.json`; where documents have labels,
`labels.npy` (int32, one an id), where they have sources, `sources.npy` and `source_offsets.npy`, and where they have
signals, `signals.npy` (float32 [documents, names]; the names are in the meta data). It is written under a temporary
name and renamed, so a directory with a `meta.json` is complete. Arrays are NumPy's own format without pickled objects.

Proved by tests/unit/data/test_tokens.py.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..core.disk import fsync, writing
from .batch import IGNORE
from .records import Where

# Raised whenever the same records would give other documents, so that shards of an older lmcraft are not reused.
VERSION = 2


@dataclass(frozen=True, slots=True)
class Document:
    """Ids of one document; `trained[i]` says whether id i is a target; `None` means all of them.

    With `labels` (one an id, IGNORE for none) each position predicts its own label, and not the id after it.
    `source` is what a sequence-to-sequence model reads before it writes the ids. `signals` are numbers that the loss
    needs beside them; all documents of a shard have the same names.
    """

    ids: Sequence[int]
    trained: Sequence[bool] | None
    where: Where
    labels: Sequence[int] | None = None
    source: Sequence[int] | None = None
    signals: Mapping[str, float] | None = None


class Tokens:
    """A complete shard directory, opened read-only."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.meta: dict[str, Any] = json.loads((directory / "meta.json").read_text())
        self.ids = np.load(directory / "tokens.npy", mmap_mode="r", allow_pickle=False)
        self.trained = np.load(directory / "trained.npy", mmap_mode="r", allow_pickle=False)
        self.offsets = np.load(directory / "offsets.npy", allow_pickle=False)
        self.labels = self._optional("labels")
        self.sources = self._optional("sources")
        self.source_offsets = self._optional("source_offsets")
        self.signals = self._optional("signals")
        self._lines = np.load(directory / "lines.npy", allow_pickle=False)
        self._files = np.load(directory / "files.npy", allow_pickle=False)

    def _optional(self, name: str) -> np.ndarray | None:
        file = self.directory / f"{name}.npy"
        return np.load(file, mmap_mode="r", allow_pickle=False) if file.exists() else None

    @property
    def lengths(self) -> np.ndarray:
        """Ids of each document."""
        return np.diff(self.offsets)

    def source(self, document: int) -> np.ndarray:
        """Source ids of a document; empty where documents have none."""
        if self.sources is None or self.source_offsets is None:
            return np.zeros(0, np.int64)
        return self.sources[self.source_offsets[document] : self.source_offsets[document + 1]]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def where(self, document: int) -> str:
        """File and line of a document."""
        return f"{self.meta['files'][self._files[document]]}:{self._lines[document]}"


def write(
    directory: Path, documents: Iterable[Document], vocab: int, meta: dict[str, Any], counts: Counter
) -> Tokens:
    """Writes a shard directory; an existing complete one is left as it is.

    `counts` is what making the documents counts (truncated, dropped …); it is stored in the meta data.
    """
    if (directory / "meta.json").exists():
        return Tokens(directory)
    kind = np.uint16 if vocab <= 1 << 16 else np.uint32
    ids: list[np.ndarray] = []
    trained: list[np.ndarray] = []
    labels: list[np.ndarray] = []
    sources: list[np.ndarray] = []
    signals: list[Mapping[str, float]] = []
    lines, files, names = [], [], {}
    for document in documents:
        ids.append(np.asarray(document.ids, dtype=kind))
        trained.append(_trained(document))
        if document.labels is not None:
            labels.append(np.asarray(document.labels, dtype=np.int32))
        if document.source is not None:
            sources.append(np.asarray(document.source, dtype=kind))
        if document.signals is not None:
            signals.append(document.signals)
        lines.append(document.where.line)
        files.append(names.setdefault(str(document.where.file), len(names)))
    arrays = {
        "tokens": np.concatenate(ids) if ids else np.zeros(0, kind),
        "trained": np.concatenate(trained) if trained else np.zeros(0, bool),
        "offsets": np.cumsum([0, *map(len, ids)], dtype=np.int64),
        "lines": np.array(lines, dtype=np.int64),
        "files": np.array(files, dtype=np.int32),
    }
    if labels:
        arrays["labels"] = np.concatenate(labels)
    if sources:
        arrays["sources"] = np.concatenate(sources)
        arrays["source_offsets"] = np.cumsum([0, *map(len, sources)], dtype=np.int64)
    numbers = sorted(signals[0]) if signals else []
    if signals:
        arrays["signals"] = np.array([[one[name] for name in numbers] for one in signals], dtype=np.float32)
        meta = {**meta, "signals": numbers}
    _put(directory, arrays, {**meta, "vocab": vocab, "files": list(names), "counts": dict(counts)})
    return Tokens(directory)


def _trained(document: Document) -> np.ndarray:
    if document.labels is not None:
        return np.asarray(document.labels) != IGNORE
    if document.trained is None:
        return np.ones(len(document.ids), bool)
    return np.asarray(document.trained, bool)


def _put(directory: Path, arrays: dict[str, np.ndarray], meta: dict[str, Any]) -> None:
    """Writes a complete directory under a temporary name and renames it; after an error nothing is left."""
    with writing(directory, bytes_needed=sum(array.nbytes for array in arrays.values())):
        directory.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=directory.parent, prefix=f".{directory.name}-"))
        try:
            for name, array in arrays.items():
                np.save(temporary / f"{name}.npy", array)
            (temporary / "meta.json").write_text(json.dumps(meta, indent=2))
            for file in (*temporary.iterdir(), temporary):
                fsync(file)
            try:
                os.replace(temporary, directory)
            except OSError:
                if not (
                    directory / "meta.json"
                ).exists():  # else another process finished the same shard first
                    raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
