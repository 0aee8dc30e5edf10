"""The logit lens: what the model would say if it stopped after each block.

lens_l = head(norm(x_l)), x_l being the hidden vectors after block l (nostalgebraist 2020, "interpreting GPT: the logit
lens").

1. x_0 is what goes into the first block. The last row is what the model says, which is checked in every call.
2. The stack is found by its shape: a module with `blocks` and a `norm` after them, or `norms` that stand before every
   layer and at the end. A model without either (its output reads more than the last block) has no lens.

Legend: B rows, T positions, D width, L layers, V vocabulary.
Proved by tests/unit/inspect/test_lens.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .predictions import Guess

CLOSE = 1e-3  # relative; a model in bfloat16 is compared with itself, so the two differ by nothing


class Stream:
    """The hidden vectors before the first and after every block, [B, T, D] each, caught while the model runs."""

    def __init__(self, owner: nn.Module) -> None:
        self.owner = owner
        self.hidden: dict[int, Tensor] = {}
        self._handles: list[Any] = []

    @property
    def layers(self) -> list[Tensor]:
        """What was caught, from the first block's input to the last block's output."""
        return [self.hidden[place] for place in sorted(self.hidden)]

    def __enter__(self) -> Stream:
        norms = getattr(self.owner, "norms", None)
        if norms is not None:
            for place, norm in enumerate(norms):
                self._catch(norm, place)
        else:
            blocks = list(self.owner.blocks)
            self._catch(blocks[0], 0)
            for place, block in enumerate(blocks):
                self._handles.append(block.register_forward_hook(self._output(place + 1)))
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    @property
    def tail(self) -> nn.Module:
        """The norm between the last block and the head."""
        norms = getattr(self.owner, "norms", None)
        return self.owner.norm if norms is None else norms[-1]

    def _catch(self, module: nn.Module, place: int) -> None:
        def hook(_: nn.Module, arguments: tuple[Any, ...]) -> None:
            self.hidden[place] = arguments[0].detach()

        self._handles.append(module.register_forward_pre_hook(hook))

    def _output(self, place: int) -> Callable[..., None]:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            self.hidden[place] = (output[0] if isinstance(output, tuple) else output).detach()

        return hook


def stream(model: nn.Module) -> Stream | None:
    """What catches the hidden vectors of the stack that ends in the model's head; None if it has no such stack."""
    for owner in (model, getattr(model, "decoder", None), getattr(model, "encoder", None)):
        if owner is None:
            continue
        norms, blocks = getattr(owner, "norms", None), getattr(owner, "blocks", None)
        if isinstance(norms, nn.ModuleList) and len(norms) > 1:
            return Stream(owner)
        if isinstance(blocks, nn.ModuleList) and len(blocks) and hasattr(owner, "norm"):
            return Stream(owner)
    return None


@dataclass(frozen=True)
class Lens:
    """The likeliest token of each position after each block; row 0 is before the first, the last is the model's."""

    rows: list[list[Guess]]


@torch.no_grad()
def lens(model: nn.Module, caught: Stream, layers: Sequence[Tensor], hidden_TD: Tensor) -> Lens | None:
    """The lens of one text; None where the norm of the last block's output is not what the model returns.

    Args:
        layers: hidden vectors [T, D] before the first and after every block.
        hidden_TD: what the model returned.
    """
    if not layers or any(layer.shape != hidden_TD.shape for layer in layers):
        return None
    last_TD = caught.tail(layers[-1])
    if (last_TD - hidden_TD).abs().max() > CLOSE * hidden_TD.abs().max().clamp(min=1e-6):
        return None
    rows = []
    for layer_TD in layers:
        probabilities_TV = torch.softmax(model.head(caught.tail(layer_TD)).float(), dim=-1)
        best = probabilities_TV.max(dim=-1)
        values, indices = best.values.tolist(), best.indices.tolist()
        rows.append([Guess(number, value) for number, value in zip(indices, values, strict=True)])
    return Lens(rows)
