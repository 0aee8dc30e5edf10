"""The critic: what a policy expects of the rest of an answer, from the policy's own hidden vectors or by itself.

1. `shared`: a linear head on the policy's last hidden vectors, which is trained with it (Ziegler et al., arXiv
   1909.08593). `separate`: a copy of the whole model with such a head (Huang et al., 2403.17031).
2. The head begins at 0, so that the first advantages are the rewards themselves.
3. It is a part of the model while that is trained, so checkpoints keep it; `taken_off` gives the policy alone.

Legend: B rows, T positions, D width.
Proved by tests/unit/rl/test_critic.py.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from ..core.errors import UserError

NAME = "critic"


class Critic(nn.Module):
    """Values from hidden vectors; `body` is a model of its own, or None where the policy's are used."""

    def __init__(self, width: int, body: nn.Module | None) -> None:
        super().__init__()
        self.body = body
        self.value = nn.Linear(width, 1)
        nn.init.zeros_(self.value.weight)
        nn.init.zeros_(self.value.bias)

    def forward(self, hidden_BTD: Tensor, tokens_BT: Tensor, segments_BT: Tensor, **reads: Any) -> Tensor:
        """Values [B, T] in float32 or wider.

        Args:
            hidden_BTD: the policy's; of no use to a critic with a body.
        """
        if self.body is not None:
            hidden_BTD = self.body(tokens_BT, segments_BT, **reads)
        wide_BTD = hidden_BTD.float() if hidden_BTD.element_size() < 4 else hidden_BTD
        weight, bias = self.value.weight.to(wide_BTD.dtype), self.value.bias.to(wide_BTD.dtype)
        with torch.autocast(wide_BTD.device.type, enabled=False):  # advantages are differences of values
            return nn.functional.linear(wide_BTD, weight, bias)[..., 0]


def put_on(model: nn.Module, separate: bool) -> nn.Module:
    """The model with a critic; one that it has already is kept."""
    if not hasattr(model, NAME):
        first = next(model.parameters())
        body = copy.deepcopy(model) if separate else None
        critic = Critic(model.config.width, body).to(first.device)
        model.critic = critic.to(first.dtype) if first.element_size() > 4 else critic
    return model


def taken_off(model: nn.Module) -> nn.Module:
    """The policy alone, in place."""
    if hasattr(model, NAME):
        del model.critic
        for adapted in getattr(model, "adapted", []):
            adapted.beside = [name for name in adapted.beside if not name.startswith(f"{NAME}.")]
    return model


def refuse_adapted(model: nn.Module) -> None:
    """A second copy of the base would be adapted as well, which is not what a critic of its own is for.

    Raises:
        UserError: the critic has a body, and the model adapters.
    """
    if getattr(model, "adapted", None) and model.critic.body is not None:
        raise UserError(
            "a critic of its own does not go with an adapter", where="stage.critic=separate",
            why="it is a second copy of the base, which an adapter should save", fix="use stage.critic=shared",
        )  # fmt: skip
