"""The directory of a trained adapter: what it holds, beside which base it belongs, written and read.

    adapter_model.safetensors   the trained tensors: of the parts, and of a fresh head
    lmcraft.json                our entries, the base's place and fingerprint, the head
    adapter_config.json         PEFT's settings, where PEFT has the method; the tensors then have public names

1. A directory without lmcraft.json was written by PEFT: its settings become our entries (peft_format).
2. The adapters are applied to the base again, and then given their numbers; so a quantized base is not stored.
3. Another base than the one that the adapter was trained on is refused, by fingerprint (lmcraft.adapt.base).
4. Several adapters can be loaded beside one base, under names.

Proved by tests/contract/test_adapters.py and tests/parity/test_peft.py.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..core import find
from ..core.config import Strict
from ..core.disk import read_json, write_json, writing
from ..core.errors import UserError
from ..models import heads, safetensors_file
from ..models.safetensors_file import ToWrite
from . import adapter, base, entries, peft_format

WEIGHTS = "adapter_model.safetensors"


def save(model: nn.Module, directory: Path) -> None:
    """Writes what was applied last to a model, and trained.

    Raises:
        UserError: the disk is full, or cannot be written.
    """
    adapted = model.adapted[-1]
    place = Path(adapted.base.path).absolute()
    written = peft_format.write(model, adapted, str(place))
    tensors = entries.tensors(model, adapted) if written is None else written.tensors
    with writing(directory):
        directory.mkdir(parents=True, exist_ok=True)
    stored = [_to_write(name, tensor.detach()) for name, tensor in tensors.items()]
    safetensors_file.write(directory / WEIGHTS, stored, {"format": "pt"})
    near = place.is_relative_to(directory.absolute().parent.parent)
    facts = {
        "entries": [entry.model_dump(mode="json") for entry in adapted.entries],
        "names": adapted.names,
        "base": {
            "path": os.path.relpath(place, directory.absolute()) if near else str(place),
            "fingerprint": adapted.base.fingerprint,
        },
        "head": model.config.model_dump(mode="json") if isinstance(model.config, heads.Config) else None,
    }
    if written is not None:
        write_json(directory / base.PEFT_CONFIG, written.config)
    write_json(directory / base.OURS, facts)


def _to_write(name: str, tensor: Tensor) -> ToWrite:
    return ToWrite(name, tensor.dtype, tuple(tensor.shape), lambda: iter((tensor,)))


def base_of(directory: Path) -> Path:
    """Where the base of an adapter is.

    Raises:
        UserError: it cannot be found.
    """
    ours, peft = _settings(directory)
    said = [(ours.get("base") or {}).get("path"), peft.get("base_model_name_or_path")]
    return base.find(directory, [word for word in said if isinstance(word, str) and word])


def load(adapters: Mapping[str | None, Path], place: Path, tokenizer: Any) -> nn.Module:
    """A base with adapters beside it, in evaluation mode.

    Args:
        adapters: directories by the names that the adapters get; None for one that is named after its kind.
        place: of the base.

    Raises:
        UserError: an adapter is damaged, or of another base.
    """
    model = finished(place, tokenizer)
    adapter.freeze(model)
    under = entries.Base(str(place), base.fingerprint(model))
    for name, directory in adapters.items():
        model = _attach(model, directory, name, under, tokenizer)
    return model.eval()


def finished(place: Path, tokenizer: Any) -> nn.Module:
    """The model that a place holds; an adapter and its base are merged into one.

    Raises:
        UserError: an adapter that cannot be merged.
    """
    if not (place.is_dir() and base.is_adapter(place)):
        return base.plain_weights(place)
    return adapter.merge(load({None: place}, base_of(place), tokenizer))


def _attach(
    model: nn.Module, directory: Path, name: str | None, under: entries.Base, tokenizer: Any
) -> nn.Module:
    ours, peft = _settings(directory)
    known = (ours.get("base") or {}).get("fingerprint")
    if known is not None and known != under.fingerprint:
        raise UserError(
            "this adapter was trained on another base", where=str(directory),
            why=f"the weights in {under.path} are not those that it stood beside",
            fix="name the base that it was trained on",
        )  # fmt: skip
    stored = _read(directory / WEIGHTS)
    model = _with_head(model, ours, directory)
    where = str(directory)
    wanted = _entries(ours, where) if ours else peft_format.entries(peft, stored, model, where)
    model = entries.apply(model, _new(model, wanted, where), under, tokenizer, name)
    adapted = model.adapted[-1]
    if peft:
        (only,) = adapted.names
        tensors = peft_format.tensors(peft, stored, model, only, where)
    else:
        tensors = _renamed(stored, ours.get("names") or [], adapted.names)
    _fill(model, tensors, entries.tensors(model, adapted), where)
    adapted.beside = [one for one in tensors if ".beside." not in one]
    return model


def _settings(directory: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """What lmcraft.json and adapter_config.json say; empty where there is none."""
    found = []
    for name in (base.OURS, base.PEFT_CONFIG):
        file = directory / name
        content = read_json(file) if file.is_file() else {}
        if not isinstance(content, dict) or not isinstance(content.get("base") or {}, dict):
            raise UserError("not the settings of an adapter", where=str(file))
        found.append(content)
    if not any(found):
        raise UserError(
            "there is no adapter here", where=str(directory), why=f"it has neither {base.OURS} nor {base.PEFT_CONFIG}",
            fix="name a run with an adapter, or a directory that PEFT has written",
        )  # fmt: skip
    return found[0], found[1]


def _entries(ours: Mapping[str, Any], where: str) -> list[Strict]:
    try:
        return [find.module("adapt", entry["kind"]).Config(**entry) for entry in ours["entries"]]
    except (KeyError, TypeError, ValueError) as error:
        why = " ".join(str(error).split()).partition(" For further information")[0]  # pydantic's
        raise UserError(f"{base.OURS} lacks or garbles a setting", where=where, why=why) from error


def _new(model: nn.Module, wanted: list[Strict], where: str) -> list[Strict]:
    """The entries without those that say how the base is kept, if it is kept so already for another adapter."""
    kept = [entry for entry in wanted if entry.kind in peft_format.WITHOUT_PARTS]
    loaded = getattr(model, "adapted", [])
    if not loaded:
        return wanted
    before = [entry for entry in loaded[0].entries if entry.kind in peft_format.WITHOUT_PARTS]
    if kept != before:
        raise UserError(
            "these adapters cannot be loaded together", where=where,
            why="one was trained beside a quantized base, the other beside another",
            fix="load them one after the other",
        )  # fmt: skip
    return [entry for entry in wanted if entry not in kept]


def _with_head(model: nn.Module, ours: Mapping[str, Any], directory: Path) -> nn.Module:
    """The model with the head that was trained beside its adapter."""
    head = ours.get("head")
    if head is None:
        return model
    try:
        config = heads.Config(**head)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError("the head of this adapter is damaged", where=str(directory)) from error
    if model.config == config:
        return model
    if hasattr(model, "adapted"):
        raise UserError("these adapters cannot be loaded together", where=str(directory),
                        why="each has a head of its own", fix="load them one after the other")  # fmt: skip
    body = model.body if isinstance(model, heads.Heads) else model
    found = heads.Heads(config, body)
    adapter.freeze(found)
    return found


def _read(file: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file, in float32 where they are numbers of any precision."""
    if not file.is_file():
        raise UserError(
            f"{file.name} is missing", where=str(file.parent), why="only safetensors weights are read"
        )
    found = {}
    for name, stored in safetensors_file.read(file).items():
        tensor = torch.empty(
            stored.shape, dtype=torch.float32 if stored.dtype.is_floating_point else stored.dtype
        )
        rows = tensor if tensor.ndim else tensor[None]
        for start, piece in safetensors_file.pieces(stored):
            rows[start : start + len(piece)] = piece.view(len(piece), *rows.shape[1:])
        found[name] = tensor
    return found


def _renamed(stored: dict[str, Tensor], old: list[str], new: list[str]) -> dict[str, Tensor]:
    """Tensors of parts that had the old names under the new ones."""
    pairs = [(f".beside.{before}.", f".beside.{after}.") for before, after in zip(old, new, strict=False)]

    def renamed(name: str) -> str:
        return next((name.replace(a, b) for a, b in pairs if a in name), name)

    return {renamed(name): tensor for name, tensor in stored.items()}


@torch.no_grad()
def _fill(model: nn.Module, tensors: dict[str, Tensor], parts: dict[str, Tensor], where: str) -> None:
    """Copies the stored numbers into the model."""
    state = model.state_dict()
    missing = [name for name in parts if name not in tensors]
    strange = [name for name in tensors if name not in state]
    for what, names in (("missing", missing), ("left over", strange)):
        if names:
            shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
            raise UserError(f"{len(names)} tensors of the adapter are {what}: {shown}", where=where,
                            why="it is damaged, or of another base")  # fmt: skip
    for name, tensor in tensors.items():
        if state[name].shape != tensor.shape:
            raise UserError(
                f"{name} is {list(tensor.shape)} in the adapter, {list(state[name].shape)} beside this base",
                where=where, why="it is damaged, or of another base",
            )  # fmt: skip
        state[name].copy_(tensor)
