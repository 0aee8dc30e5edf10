"""The reference: the policy as it was before, from which it should not stray too far.

1. Where only adapters are trained, it is the policy without them: no second copy of the weights.
2. Elsewhere it is a frozen copy, which is no part of the model: not trained, not saved, not counted. It is made from
   the base at the start of every call, so a run that is resumed has the same one.

Proved by tests/unit/rl/test_reference.py.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator

from torch import nn

from ..adapt import adapter
from .critic import NAME


class Reference:
    """A frozen model; `acting()` is the context in which it can be called."""

    def __init__(self, policy: nn.Module) -> None:
        self._policy = policy
        self._copy = None if _is_under_adapters(policy) else _frozen_copy(policy)

    @contextlib.contextmanager
    def acting(self) -> Iterator[nn.Module]:
        """The reference, in evaluation mode."""
        if self._copy is not None:
            yield self._copy
            return
        with adapter.disabled(self._policy, beside=(NAME,)):
            yield self._policy


def _is_under_adapters(policy: nn.Module) -> bool:
    """Whether nothing is trained but parts of adapters and the critic."""
    kept = {id(p) for part in adapter.parts(policy).values() for p in part.parameters()}
    named = ((name, p) for name, p in policy.named_parameters() if p.requires_grad)
    return all(id(p) in kept or name.startswith(f"{NAME}.") for name, p in named)


def _frozen_copy(policy: nn.Module) -> nn.Module:
    critic = policy._modules.pop(NAME, None)
    try:
        copied = copy.deepcopy(policy)
    finally:
        if critic is not None:
            policy.critic = critic
    adapter.freeze(copied)
    return copied.eval()
