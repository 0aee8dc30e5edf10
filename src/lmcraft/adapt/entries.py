"""The adapters of a recipe, applied in order beside a frozen base, and what a model must know of them to save them.

1. Who calls `apply` has frozen the base; a fresh head, which a stage has added, stays trained.
2. An entry is named after its kind, a second one of the same kind `lora-2`.
3. Whether the adapter is kept apart from the base (`adapter/` instead of `model/`) is seen from the model: after
   `freeze` it has the tensors that it had before, and some of them are trained, so the base itself has changed.

Proved by tests/contract/test_adapters.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from ..core import find
from ..core.config import Strict
from ..core.errors import UserError
from . import adapter

WHOLE = ("quantize", "freeze")  # kinds that need the base's weights as they are


@dataclass(frozen=True)
class Base:
    """The model under an adapter: where it was said to be, and its fingerprint."""

    path: str
    fingerprint: str


@dataclass
class Adapted:
    """What was applied to a model under one name; kept on the model as `model.adapted`, a list.

    Attributes:
        names: of the adapters that have parts.
        beside: names of the base's tensors that are trained too, such as a fresh head.
    """

    entries: Sequence[Strict]
    base: Base
    names: list[str] = field(default_factory=list)
    beside: list[str] = field(default_factory=list)
    apart: bool = False


def apply(
    model: nn.Module, entries: Sequence[Strict], base: Base, tokenizer: Any, name: str | None = None
) -> nn.Module:
    """The model with all entries applied.

    Args:
        name: of the adapter, if it is not to be named after its kind.

    Raises:
        UserError: an entry cannot be applied to this model.
    """
    adapted = Adapted(entries, base)
    before, found = _tensors(model), getattr(model, "adapted", [])
    old = set(adapter.names(model))
    for entry in entries:
        kind = entry.kind
        model = find.module("adapt", kind).apply(model, entry, _free(model, name or kind), tokenizer)
    adapted.names = [one for one in adapter.names(model) if one not in old]
    inside = {id(p) for part in adapter.parts(model).values() for p in part.parameters()}
    adapted.beside = [n for n, p in model.named_parameters() if p.requires_grad and id(p) not in inside]
    adapted.apart = _tensors(model) != before
    model.adapted = [*found, adapted]
    return model


def halved(model: nn.Module, entries: Sequence[Strict]) -> nn.Module:
    """The frozen model with its matrices in bfloat16, where no entry needs them whole.

    For training whose products are in bfloat16: they would be read so anyway, from a copy for each product. DoRA takes
    norms of the weights, `freeze` trains some, `quantize` says itself how they are kept.
    """
    if any(entry.kind in WHOLE or getattr(entry, "dora", False) for entry in entries):
        return model
    quantize = find.module("adapt", "quantize")
    return quantize.apply(model, quantize.Config(bits=16), "base")


def _free(model: nn.Module, name: str) -> str:
    taken, number = adapter.names(model), 2
    if name not in taken:
        return name
    while f"{name}-{number}" in taken:
        number += 1
    return f"{name}-{number}"


def _tensors(model: nn.Module) -> set[str]:
    return set(model.state_dict())


def tensors(model: nn.Module, adapted: Adapted) -> dict[str, Tensor]:
    """The tensors of an adapter by their names in the model: those of its parts, and what is trained beside them."""
    paths = [path for name in adapted.names for path in adapter.parts(model, name)]
    return {
        name: tensor
        for name, tensor in model.state_dict().items()
        if name in adapted.beside or any(name.startswith(f"{path}.") for path in paths)
    }


def kept_apart(model: nn.Module) -> bool:
    """Whether what was trained is saved apart from the base."""
    return any(one.apart for one in getattr(model, "adapted", []))


def kept_as_it_is(entries: Sequence[Strict]) -> bool:
    """Whether the base's own weights stay as they are beside these adapters, so that it can be had back any time."""
    return bool(entries) and all(entry.kind != "freeze" for entry in entries)


def require_trained(model: nn.Module) -> None:
    """Raises UserError if nothing of the model is trained."""
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise UserError(
            "these adapters leave nothing to train", where="adapter", why="the base is frozen and they add no weights",
            fix="add one that is trained, for example adapter=[quantize, lora]",
        )  # fmt: skip
