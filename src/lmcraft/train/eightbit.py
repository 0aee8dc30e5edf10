"""AdamW whose two averages take a byte each instead of four, through bitsandbytes.

Dettmers et al., arXiv 2110.02861: averages are stored as 8-bit codes, scaled by the largest of each 256.

1. bitsandbytes computes it on a CPU with its own kernels, without a compiler; torchao's would need torch.compile.
2. Parameters of fewer than 4,096 numbers keep float32 averages.
3. The tables of codes are the same for all parameters and are not saved.
4. Its kernels take whole tensors, so a model that is cut over processes is refused.

Proved by tests/unit/train/test_eightbit.py and tests/parallel/test_adapters.py.
"""

from __future__ import annotations

from typing import Any

import torch

from ..core.errors import UserError
from . import shards

TABLES = {"qmap1": "dynamic", "qmap2": "udynamic"}  # in the state of a parameter; in the optimizer


def build(
    groups: list[dict[str, Any]], lr: float, betas: tuple[float, float], eps: float
) -> torch.optim.Optimizer:
    """The optimizer.

    Raises:
        UserError: bitsandbytes is not installed, or the parameters are shares.
    """
    if any(shards.is_share(parameter) for group in groups for parameter in group["params"]):
        raise UserError(
            "train.optim.kind=adamw8bit does not work on a model that is cut over processes",
            where="train.optim.kind=adamw8bit", why="bitsandbytes has no kernels for shares of tensors",
            fix="use train.optim.kind=adamw, of whose averages each process holds its share, or train.parallel=ddp",
        )  # fmt: skip
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError as error:
        raise UserError(
            "train.optim.kind=adamw8bit needs bitsandbytes", where="train.optim.kind=adamw8bit",
            why="it is not installed", fix="pip install 'lmcraft[fit]', or use train.optim.kind=adamw",
        ) from error  # fmt: skip

    class AdamW(AdamW8bit):
        """With a state of plain tensors that no two parameters share."""

        def state_dict(self) -> dict[str, Any]:
            found = torch.optim.Optimizer.state_dict(self)
            kept = {n: {k: v for k, v in s.items() if k not in TABLES} for n, s in found["state"].items()}
            return {**found, "state": kept}

        def load_state_dict(self, state_dict: dict[str, Any]) -> None:
            order = [parameter for group in self.param_groups for parameter in group["params"]]
            for number, values in state_dict["state"].items():
                device = order[number].device
                state = {
                    name: value.to(device, copy=True) for name, value in values.items() if name != "step"
                }
                state["step"] = int(values["step"])
                if "absmax1" in state:
                    state |= {name: self.name2qmap[table].to(device) for name, table in TABLES.items()}
                self.state[order[number]] = state

    return AdamW(groups, lr=lr, betas=betas, eps=eps)
