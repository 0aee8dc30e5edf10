"""Who holds how many bytes: every tensor's memory from its making to its end, by what it is for, and the largest sum.

1. A storage is counted once, however many tensors view it, from the operation that made it until nothing refers to
   it.
2. What it is for is known from where it was made: inside which module, in the backward pass, in the optimizer's step,
   or in the loss. Gradients and optimizer state are told apart from temporary numbers when they are kept.
3. The largest sum is kept for the forward, the backward and the update each: which of them is the largest changes with
   the depth of a model.

Proved by tests/unit/train/test_ledger.py and benchmarks/plan_grid.py.
"""

from __future__ import annotations

import contextlib
import weakref
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as hooks
from torch.optim import optimizer as optimizers

from .extent import Heaps

PARAMETERS, GRADIENTS, OPTIMIZER = "parameters", "gradients", "optimizer"
LOSS, FORWARD, BACKWARD, UPDATE = "logits and loss", "forward", "backward", "update"
OTHER = "activations: other"
# Words in the name of a class, and what its activations are called; the first that fits.
KINDS = {
    "attention": "activations: attention", "mlp": "activations: mlp", "norm": "activations: norms",
    "embedding": "activations: embedding", "recurrent": "activations: recurrent", "lora": "activations: adapters",
    "block": "activations: residual stream",
}  # fmt: skip


class Ledger:
    """Live bytes by what they are for.

    Attributes:
        live: bytes now.
        peaks: bytes at the fullest moment of each phase.
        heap: where all of it would lie.
    """

    def __init__(self) -> None:
        self.live: Counter[str] = Counter()
        self.peaks: dict[str, Counter[str]] = {}
        self.heap = Heaps()
        self._sum = 0
        self._largest: Counter[str] = Counter()
        self._held: dict[int, tuple[weakref.ref, int, str]] = {}
        self._inside: list[str | None] = []
        self._updating = False

    def note(self, tensor: Tensor, purpose: str | None = None) -> None:
        """Counts the tensor's memory, if it is not counted yet; from now on under `purpose`, if that is given."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        known = self._held.get(key)
        if known is not None and known[0]() is storage:
            if purpose is not None and known[2] != purpose:
                self.live[known[2]] -= known[1]
                self.live[purpose] += known[1]
                self._held[key] = (*known[:2], purpose)
            return
        size, purpose = storage.nbytes(), purpose or self._purpose()
        self.heap.take(key, size)
        self.live[purpose] += size
        self._sum += size
        self._held[key] = (weakref.ref(storage, lambda _: self._end(key)), size, purpose)
        phase = self.phase
        if self._sum > self._largest[phase]:
            self._largest[phase] = self._sum
            self.peaks[phase] = self.live.copy()

    def _end(self, key: int) -> None:
        _, size, purpose = self._held.pop(key)
        self.heap.give(key)
        self.live[purpose] -= size
        self._sum -= size

    @property
    def phase(self) -> str:
        """Forward, backward or update."""
        if torch._C._current_graph_task_id() != -1:
            return BACKWARD
        return UPDATE if self._updating else FORWARD

    def _purpose(self) -> str:
        if self._inside and self._inside[-1] is not None:
            return self._inside[-1]
        if torch._C._current_graph_task_id() != -1:
            return BACKWARD
        if self._inside:
            return OTHER
        return UPDATE if self._updating else LOSS

    @contextlib.contextmanager
    def watching(self, model: nn.Module) -> Iterator[None]:
        """Within it, the ledger knows in which part of the model, or of the step, memory is made."""
        for tensor in held_by(model):
            self.note(tensor, PARAMETERS)
        kinds = dict(_kinds(model))

        def enter(module: nn.Module, _: Any) -> None:
            self._inside.append(kinds.get(module) or (self._inside[-1] if self._inside else None))

        def leave(module: nn.Module, *_: Any) -> None:
            self._inside.pop()

        def update(*_: Any) -> None:
            self._updating = True

        def updated(optimizer: torch.optim.Optimizer, *_: Any) -> None:
            self._updating = False
            for state in optimizer.state.values():
                for value in state.values():
                    if isinstance(value, Tensor):
                        self.note(value, OPTIMIZER)

        handles = [
            hooks.register_module_forward_pre_hook(enter),
            hooks.register_module_forward_hook(leave, always_call=True),
            optimizers.register_optimizer_step_pre_hook(update),
            optimizers.register_optimizer_step_post_hook(updated),
        ]
        handles += [
            parameter.register_post_accumulate_grad_hook(self._kept) for parameter in model.parameters()
            if parameter.requires_grad
        ]  # fmt: skip
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _kept(self, parameter: Tensor) -> None:
        if parameter.grad is not None:
            self.note(parameter.grad, GRADIENTS)


def held_by(model: nn.Module) -> Iterable[Tensor]:
    """Parameters and buffers."""
    yield from model.parameters()
    yield from model.buffers()


def _kinds(model: nn.Module) -> Iterator[tuple[nn.Module, str]]:
    head = getattr(model, "output", None)
    for part in model.modules():
        if part is head:
            yield part, LOSS
            continue
        name = type(part).__name__.lower()
        kind = next((kind for word, kind in KINDS.items() if word in name), None)
        if kind is not None:
            yield part, kind
