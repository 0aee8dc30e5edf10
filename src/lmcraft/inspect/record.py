"""Records the attention weights of one pass, of every module that can show them.

1. A module shows its weights if it has a `record`; while it is a list, each call appends to it, float32 [B, H, T, M].
2. Layers count in the order of the model's modules; a module that is called twice (shared layers) has two maps.
3. Which of the source, the target or both an attention joins is found by a probe of a source of three tokens and a
   target of two: the shapes of the recorded weights tell it, whatever the modules are called.

Legend: B rows, H heads, T positions that look, M positions that are looked at.
Proved by tests/unit/inspect/test_record.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..layers.source import Source

ENCODER, SELF, CROSS = "encoder", "self", "cross"
PROBE_SOURCE, PROBE_TARGET = 3, 2


@dataclass(frozen=True)
class Map:
    """The weights of one call of one module, float32 [H, T, M]; `side` is encoder, self or cross; layers from 0."""

    module: str
    side: str
    layer: int
    weights_HTM: Tensor


@contextmanager
def recorded(model: nn.Module) -> Iterator[dict[str, list[Tensor]]]:
    """What every attending module records inside, by module name: one [B, H, T, M] a call; nothing is left behind."""
    modules = {name: module for name, module in model.named_modules() if hasattr(module, "record")}
    before = {name: module.record for name, module in modules.items()}
    found: dict[str, list[Tensor]] = {name: [] for name in modules}
    for name, module in modules.items():
        module.record = found[name]
    try:
        yield found
    finally:
        for name, module in modules.items():
            module.record = before[name]


@torch.no_grad()
def sides(model: nn.Module) -> dict[str, str]:
    """What each attending module joins: `encoder` source to source, `self` target to target, `cross` both."""
    device = next(model.parameters()).device
    tokens_BT = torch.zeros(1, PROBE_TARGET, dtype=torch.long, device=device)
    with recorded(model) as found:
        if getattr(model, "reads_source", False):
            model(tokens_BT, source=Source.of(tokens_BT.new_zeros(1, PROBE_SOURCE)))
        else:
            model(tokens_BT)
    named = {
        (PROBE_SOURCE, PROBE_SOURCE): ENCODER,
        (PROBE_TARGET, PROBE_SOURCE): CROSS,
    }
    return {
        name: named.get((weights[0].shape[-2], weights[0].shape[-1]), SELF)
        for name, weights in found.items()
        if weights
    }


def maps(found: dict[str, list[Tensor]], side_of: dict[str, str]) -> list[Map]:
    """The first row of everything that was recorded, in the order of the layers of each side."""
    listed = []
    for side in (ENCODER, SELF, CROSS):
        calls = [
            (name, weights)
            for name, all_weights in found.items()
            if side_of.get(name) == side
            for weights in all_weights
        ]
        listed += [Map(name, side, layer, weights[0].cpu()) for layer, (name, weights) in enumerate(calls)]
    return listed
