"""PEFT's directory format: adapter_config.json and adapter_model.safetensors, with public module names.

1. A method is a file `peft_METHOD.py` that translates one kind of adapter (`KIND`) to PEFT's type (`TYPE`) and back, by
   `write`, `entry` and `tensors`; `BARE` are tensors whose names have no prefix there. Here is what all have in
   common: names, the base, and modules that are trained whole (`modules_to_save`).
2. Names follow the tables of the families, so `blocks.0.attn.q` is `model.layers.0.self_attn.q_proj`. A model that no
   public family expresses, and adapters that PEFT does not know, are kept under our names, without adapter_config.json.
3. A setting that would change what the adapter computes and has no counterpart here is refused, never ignored.

Proved by tests/parity/test_peft.py.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any

from torch import Tensor, nn

from ..core.config import Strict
from ..core.errors import UserError
from .entries import Adapted
from .peft_names import PREFIX, Names

WITHOUT_PARTS = ("quantize",)  # says how the base is kept; PEFT leaves that to who loads the base


@cache
def methods() -> tuple[Any, ...]:
    """The files of this folder that translate a kind of adapter."""
    package = __package__ or ""
    places = import_module(package).__path__
    found = [import_module(f"{package}.{info.name}") for info in pkgutil.iter_modules(places)
             if info.name.startswith("peft_") and info.name != __name__.rpartition(".")[2]]  # fmt: skip
    return tuple(module for module in found if hasattr(module, "TYPE"))


@dataclass(frozen=True)
class Written:
    """The content of adapter_config.json and of adapter_model.safetensors."""

    config: dict[str, Any]
    tensors: dict[str, Tensor]


def write(model: nn.Module, adapted: Adapted, base: str) -> Written | None:
    """An adapter in PEFT's format, or None where PEFT has no such thing.

    Args:
        base: path of the base model.
    """
    names = Names.of(model)
    kinds = [entry for entry in adapted.entries if entry.kind not in WITHOUT_PARTS]
    if names is None or len(kinds) != 1 or len(adapted.names) != 1:
        return None
    method = next((one for one in methods() if kinds[0].kind == one.KIND), None)
    whole = names.whole(model, adapted.beside)
    if method is None or whole is None:
        return None
    written = method.write(model, kinds[0], adapted.names[0], names)
    if written is None:
        return None
    config, tensors = written
    saved, modules = whole
    common = {
        "peft_type": method.TYPE, "task_type": _task(model, bool(modules)), "base_model_name_or_path": base,
        "inference_mode": True, "modules_to_save": modules or None,
    }  # fmt: skip
    bare = getattr(method, "BARE", ())
    every = {name if name in bare else PREFIX + name: tensor for name, tensor in (tensors | saved).items()}
    return Written(common | config, every)


def _task(model: nn.Module, head: bool) -> str | None:
    """PEFT's word for what the model does; of a classifier only where its head is stored, which PEFT then expects."""
    if model.reads_source:
        return "SEQ_2_SEQ_LM"
    if model.generates:
        return "CAUSAL_LM"
    task = getattr(model.config, "task", None) if head else None
    return {"classes": "SEQ_CLS", "tags": "TOKEN_CLS"}.get(task)


def entries(
    config: Mapping[str, Any], stored: Mapping[str, Tensor], model: nn.Module, where: str
) -> list[Strict]:
    """What an adapter_config.json that another program has written asks for, as our entries.

    Raises:
        UserError: a method that is not read, or a setting that would be ignored.
    """
    method = _method(config, where)
    return [method.entry(config, _named(stored), _names(model, where), where)]


def tensors(
    config: Mapping[str, Any], stored: Mapping[str, Tensor], model: nn.Module, name: str, where: str
) -> dict[str, Tensor]:
    """The stored tensors by their names in the model, where the adapter `name` has been applied.

    Raises:
        UserError: a tensor belongs to no module of the model.
    """
    names = _names(model, where)
    found, rest = _method(config, where).tensors(_named(stored), model, name, names, where)
    return found | names.read_whole(rest, model, where)


def _method(config: Mapping[str, Any], where: str) -> Any:
    known = {method.TYPE: method for method in methods()}
    asked = config.get("peft_type")
    if asked not in known:
        raise UserError(
            f"adapters of type {asked!r} are not read", where=where, why=f"known types: {', '.join(known)}"
        )
    return known[asked]


def _names(model: nn.Module, where: str) -> Names:
    names = Names.of(model)
    if names is None:
        raise UserError(
            "this adapter is of another base", where=where, why="its names are those of a public family, and no public "
            "family computes what this model does",
        )  # fmt: skip
    return names


def _named(stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(PREFIX): tensor for name, tensor in stored.items()}
