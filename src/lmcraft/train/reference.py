"""The policy's reference: the model as it was before training, or another one that is named; frozen.

1. With adapters, the reference is the model without them (`adapter.disabled`): no second copy of the weights.
2. Without, it is a copy that is made before anything is trained or resumed. It belongs to no module, so it is neither
   trained nor saved nor counted. It follows the policy to its device and number format.
3. It is in evaluation mode: no dropout. Gradients are never made.

Proved by tests/unit/train/test_reference.py.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Sequence

import torch
from torch import nn

from ..adapt import adapter
from ..models.model import fingerprint


class Reference:
    """The reference of `model`, which is copied now.

    Args:
        beside: adapters will stand beside the model, and only they will be trained: nothing is copied.
        apart: names of modules that stand on the model and that the reference does without, such as a critic.
        given: a model of its own that is the reference instead; it is frozen.
    """

    def __init__(
        self, model: nn.Module, beside: bool, apart: Sequence[str] = (), given: nn.Module | None = None
    ) -> None:
        self.apart = apart
        if given is not None:
            self.copy: nn.Module | None = given.requires_grad_(False).eval()
        else:
            self.copy = None if beside else _frozen(model, apart)

    @property
    def fingerprint(self) -> str:
        """Of the copy, to tell that a resumed run has another one; empty where the base is itself frozen."""
        if self.copy is None or next(self.copy.parameters()).is_meta:
            return ""
        return fingerprint(self.copy.named_parameters())

    @contextlib.contextmanager
    def of(self, policy: nn.Module) -> Iterator[nn.Module]:
        """Within it the model that is yielded is the reference; without gradients and without dropout."""
        was_training = policy.training
        with torch.no_grad():
            if self.copy is None:
                policy.eval()
                try:
                    with adapter.disabled(policy, self.apart):
                        yield policy
                finally:
                    policy.train(was_training)
            else:
                yield self._beside(policy)

    def _beside(self, policy: nn.Module) -> nn.Module:
        assert self.copy is not None
        own, its = next(self.copy.parameters()), next(policy.parameters())
        if own.is_meta:  # a plan, made without weights
            self.copy = _frozen(policy, self.apart)
        elif (own.device, own.dtype) != (its.device, its.dtype):
            self.copy.to(device=its.device, dtype=its.dtype)
        return self.copy


def only_adapters_train(model: nn.Module, apart: Sequence[str] = ()) -> bool:
    """Whether nothing is trained but parts of adapters, and modules that stand apart."""
    kept = {id(p) for part in adapter.parts(model).values() for p in part.parameters()}
    named = ((name.partition(".")[0], p) for name, p in model.named_parameters() if p.requires_grad)
    return all(id(p) in kept or first in apart for first, p in named)


def _frozen(model: nn.Module, apart: Sequence[str]) -> nn.Module:
    """A copy in evaluation mode, ties kept; of a model without weights too, which deepcopy alone refuses."""
    # The memo says what a thing is copied as: a module that stands apart as nothing.
    memo: dict[int, object] = {id(model._modules[name]): None for name in apart if name in model._modules}
    memo |= {id(t): t.detach().clone() for t in model.buffers()}
    for parameter in model.parameters():
        memo[id(parameter)] = nn.Parameter(parameter.detach().clone(), requires_grad=False)
    made = copy.deepcopy(model, memo).eval()
    for name in apart:
        made._modules.pop(name, None)
    return made
