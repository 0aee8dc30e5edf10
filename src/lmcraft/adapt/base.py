"""The model that an adapter changes: what a path stands for, where an adapter's base is, and whether it is the same.

1. A path is a run, a model directory, an adapter's directory, a GGUF file, or a name in the local store.
2. A base is recognised by a fingerprint of all its tensors (lmcraft.models.model). The numbers are those in memory, so
   the same model in another file format or cut into other shards is the same.

Proved by tests/cli/test_adapter.py and tests/contract/test_adapters.py.
"""

from __future__ import annotations

from pathlib import Path

from torch import nn

from ..core import gguf
from ..core.errors import UserError
from ..data.store import resolve
from ..models import weights
from ..models.gguf.load import load as load_gguf
from ..models.model import fingerprint as of_tensors

PEFT_CONFIG = "adapter_config.json"
OURS = "lmcraft.json"


def directory_of(path: str | Path) -> Path:
    """The model's or adapter's directory, or GGUF file, that a run, a directory, a file or a store name stands for."""
    place = resolve(path)
    if place.is_file():
        return _model_file(place)
    alone = sorted(place.glob("*.gguf")) if place.is_dir() and not (place / "config.json").is_file() else []
    if len(alone) == 1:
        return alone[0]
    if (place / "config.json").is_file() or is_adapter(place):
        return place
    if (place / "model" / "config.json").is_file():
        return place / "model"
    if is_adapter(place / "adapter"):
        return place / "adapter"
    if (place / "origin.json").is_file():
        raise UserError(
            "this run has no model yet", where=str(place), why="its training has not ended",
            fix="run the same train command again to finish it",
        )  # fmt: skip
    raise UserError(
        "there is no model here", where=str(path), why="neither a run nor a directory with config.json",
        fix="`lmcraft runs` and `lmcraft models` list what there is",
    )  # fmt: skip


def is_adapter(place: Path) -> bool:
    """Whether a directory holds an adapter."""
    return (place / PEFT_CONFIG).is_file() or (place / OURS).is_file()


def _model_file(place: Path) -> Path:
    if gguf.is_gguf(place):
        return place
    fix = "name a .gguf file, or the directory that holds config.json and model.safetensors"
    if gguf.is_pickled(place):
        raise UserError("this is a pickle, which could run code when it is read", where=str(place), fix=fix)
    raise UserError(
        "this file is not a model", where=str(place), why="it does not begin as GGUF files do", fix=fix
    )


def plain_weights(place: Path) -> nn.Module:
    """The model in a directory or a GGUF file, in float32 and evaluation mode."""
    return load_gguf(place) if place.is_file() else weights.load(place)


def fingerprint(model: nn.Module) -> str:
    """See the module's docstring."""
    return of_tensors(sorted(model.state_dict().items()))


def find(directory: Path, said: list[str]) -> Path:
    """The base of the adapter in a directory.

    Args:
        said: where it may be, the likeliest first: a path from the directory on, any path, or a name in the store.

    Raises:
        UserError: it is at none of them.
    """
    for word in said:
        for place in (directory / word, Path(word)):
            if place.exists():
                return directory_of(place)
    for word in said:
        if "/" not in word and (place := resolve(word)).exists():
            return directory_of(place)
    raise UserError(
        "the base of this adapter cannot be found", where=str(directory),
        why=f"it was {' or '.join(said) or 'not named'}",
        fix="name it: lmcraft generate BASE --adapter " + str(directory) + ", or lmcraft.load(adapter, base=BASE)",
    )  # fmt: skip
