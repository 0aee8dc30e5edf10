"""The shapes that pass through a model: every module in the order of execution, its output, its parameters.

1. Modules are those that were called; a parameter that two modules share is counted where it is met first.
2. Consecutive blocks of one list that look alike are told once, with their number.
3. What a model must remember for one more token is measured: the memory of n + 1 tokens less that of n.

Legend: B rows, T positions.
Proved by tests/unit/inspect/test_shapes.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..layers.source import Source


@dataclass
class Call:
    """A module that ran: its name, kind, the shape of its output, its own and its children's parameters."""

    name: str
    kind: str
    shape: tuple[int, ...]
    parameters: int
    calls: int = 1
    tied: bool = False
    copies: int = 1
    inside: list[Call] = field(default_factory=list)


@contextmanager
def traced(model: nn.Module) -> Iterator[list[Call]]:
    """The calls of all modules below `model` made inside, nested; consecutive equal ones are not yet folded."""
    names = {module: name for name, module in model.named_modules()}
    root: list[Call] = []
    open_calls: list[list[Call]] = [root]
    known: dict[nn.Module, Call] = {}
    seen: set[nn.Parameter] = set()
    handles: list[Any] = []

    def enter(module: nn.Module, _: Any) -> None:
        call = known.get(module)
        if call is None:
            fresh = [p for p in module.parameters() if p not in seen]
            own = list(module.parameters(recurse=False))
            tied = bool(own) and all(p in seen for p in own)
            call = Call(names[module], type(module).__name__, (), sum(p.numel() for p in fresh), 0, tied)
            if not list(module.children()):
                seen.update(own)
            known[module] = call
            open_calls[-1].append(call)
        call.calls += 1
        open_calls.append(call.inside)

    def leave(module: nn.Module, _: Any, output: Any) -> None:
        open_calls.pop()
        shown = output[0] if isinstance(output, tuple | list) and output else output
        if isinstance(shown, Tensor):
            known[module].shape = tuple(shown.shape)

    for module in model.modules():
        if module is not model:
            handles.append(module.register_forward_pre_hook(enter))
            handles.append(module.register_forward_hook(leave))
    try:
        yield root
    finally:
        for handle in handles:
            handle.remove()


def folded(calls: list[Call]) -> list[Call]:
    """Consecutive siblings that differ in nothing but their number told once."""
    found: list[Call] = []
    for call in calls:
        call = replace(call, inside=folded(call.inside))
        if found and _alike(found[-1]) == _alike(call) and _numbered(call) and _numbered(found[-1]):
            found[-1] = replace(found[-1], copies=found[-1].copies + 1)
        else:
            found.append(call)
    return found


def _numbered(call: Call) -> bool:
    return call.name.rsplit(".", 1)[-1].isdigit()


def _alike(call: Call) -> tuple[Any, ...]:
    name = call.name.rsplit(".", 1)[-1]
    inside = tuple(_alike(one) for one in call.inside)
    return ("*" if name.isdigit() else name, call.kind, call.shape, call.parameters, call.calls, inside)


@dataclass(frozen=True)
class MemoryUse:
    """Bytes that one text needs while it is written: at the start, for each new token, for each token of its source."""

    fixed: int
    per_token: int
    per_source_token: int | None


@torch.no_grad()
def memory_use(model: nn.Module) -> MemoryUse | None:
    """Measured on the model's memory for one row; None for a model that does not generate."""
    if not model.generates:
        return None
    device = next(model.parameters()).device

    def size(length: int, source: int) -> int:
        if not model.reads_source:
            return _bytes(model.start(1, length), set())
        tokens_BS = torch.zeros(1, source, dtype=torch.long, device=device)
        return _bytes(model.start(1, length, Source.of(tokens_BS)), set())

    per_token = size(3, 2) - size(2, 2)
    per_source = size(2, 3) - size(2, 2) if model.reads_source else None
    fixed = size(2, 2) - 2 * per_token - 2 * (per_source or 0)
    return MemoryUse(fixed, per_token, per_source)


def _bytes(value: Any, seen: set[int]) -> int:
    """Bytes of all tensors in a memory, in its lists and in its attributes; each storage once."""
    if isinstance(value, Tensor):
        place = value.untyped_storage().data_ptr()
        if place in seen:
            return 0
        seen.add(place)
        return value.numel() * value.element_size()
    if isinstance(value, dict):
        return sum(_bytes(one, seen) for one in value.values())
    if isinstance(value, list | tuple | set):
        return sum(_bytes(one, seen) for one in value)
    return _bytes(vars(value), seen) if hasattr(value, "__dict__") else 0
