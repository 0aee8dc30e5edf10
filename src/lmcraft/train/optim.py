"""Optimizers, parameter groups and learning-rate schedules.

1. AdamW (Loshchilov and Hutter, arXiv 1711.05101): no weight decay on vectors (norms, biases) and embeddings.
2. Muon (Jordan et al. 2024): the momentum of a hidden weight matrix is replaced by its nearest orthogonal matrix, by
   five Newton-Schulz steps, scaled by max(1, rows/columns)^½. Embeddings, head and vectors stay with AdamW.
   Matrices of one shape are orthogonalised together, and in float32 unless the run computes in bfloat16, which many
   processors do slowly; that is why it is written here although torch has a Muon, against which it is tested.
   Of a model in shares, every process puts the directions together and keeps its rows of the orthogonal matrix.
3. The parts of adapters are AdamW's as well, without decay: a thin factor is no map that could be made orthogonal.
4. A schedule is a pure function of step/steps, so it has no state to save. `inverse_sqrt` is that of 2017: a linear
   rise, then the inverse square root of the step; lr is its peak, which the paper sets to (width · warmup steps)^-½.

Proved by tests/unit/train/test_optim.py.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from ..adapt.adapter import parts as parts_of
from ..core.config import Strict
from ..core.errors import UserError
from . import eightbit, offload, shards


class Config(Strict):
    """Optimizer and schedule."""

    kind: Literal["adamw", "adamw8bit", "muon"] = Field(
        "muon", description="adamw8bit: averages of a byte each (pip install 'lmcraft[fit]')"
    )
    matrix_lr_scale: float = Field(8.0, gt=0, description="Muon's learning rate as a multiple of lr")
    betas: tuple[float, float] = Field((0.9, 0.95), description="of AdamW")
    eps: float = Field(1e-8, gt=0, description="of AdamW")
    weight_decay: float = Field(0.1, ge=0, description="of matrices other than embeddings")
    momentum: float = Field(0.95, ge=0, lt=1, description="of Muon")
    schedule: Literal["cosine", "linear", "trapezoid", "constant", "inverse_sqrt"] = "trapezoid"
    warmup: float = Field(0.02, ge=0, le=1, description="share of the steps")
    cooldown: float = Field(0.5, ge=0, le=1, description="share of the steps, for trapezoid")
    final: float = Field(0.0, ge=0, le=1, description="last learning rate, as a share of the peak")
    clip: float = Field(1.0, ge=0, description="largest gradient norm; 0 = no clipping")


def for_stage(config: Config, stage: Any) -> Config:
    """The config, with a stage's own defaults (`OPTIM` of its module) where the user has said nothing."""
    own = getattr(stage, "OPTIM", {})
    return config.model_copy(update={key: own[key] for key in own.keys() - config.model_fields_set})


def factor(config: Config, step: int, steps: int) -> float:
    """Share of the peak learning rate at `step` (from 0) of `steps`."""
    warmup = config.warmup * steps
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if config.schedule == "constant":
        return 1.0
    if config.schedule == "inverse_sqrt":
        return min(1.0, (max(warmup, 1) / (step + 1)) ** 0.5)
    start = (1 - config.cooldown) * steps if config.schedule == "trapezoid" else warmup
    progress = min(1.0, max(0.0, (step - start) / max(1.0, steps - start)))
    shape = 0.5 * (1 + math.cos(math.pi * progress)) if config.schedule == "cosine" else 1 - progress
    return config.final + (1 - config.final) * shape


def build(
    config: Config,
    lr: float,
    model: nn.Module,
    products: torch.dtype = torch.float32,
    folder: Path | None = None,
) -> Optimizers:
    """The optimizers of every parameter that is trained, with peak learning rate `lr`.

    Args:
        products: in which numbers Muon multiplies matrices.
        folder: where AdamW's averages lie; default: in memory.

    Raises:
        UserError: a folder for another optimizer than AdamW, or a library that is missing.
    """
    if folder is not None and config.kind != "adamw":
        raise UserError(
            f"the averages of {config.kind} cannot lie on disk", where="train.offload",
            why="only AdamW's update can be made one parameter at a time",
            fix="add train.optim.kind=adamw, or leave train.offload out",
        )  # fmt: skip
    lookups = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    if isinstance(head := getattr(model, "output", None), nn.Linear):
        lookups.add(id(head.weight))
    lookups |= {id(p) for part in parts_of(model).values() for p in part.parameters()}
    trained = [p for p in model.parameters() if p.requires_grad]
    matrices = [p for p in trained if p.ndim == 2 and id(p) not in lookups]
    others = [p for p in trained if p.ndim != 2 or id(p) in lookups]
    parts: list[torch.optim.Optimizer] = []
    # Shares and whole tensors cannot stand in one group; the order, by which states are saved, stays that of the model.
    groups: list[dict[str, Any]] = [
        {"params": [*alike], "weight_decay": 0.0} for _, alike in itertools.groupby(others, shards.is_share)
    ]
    if config.kind == "muon" and matrices:
        parts.append(
            Muon(matrices, lr * config.matrix_lr_scale, config.momentum, config.weight_decay, products)
        )
    else:
        groups.append({"params": matrices, "weight_decay": config.weight_decay})
    groups = [group for group in groups if group["params"]]
    settings: dict[str, Any] = {"lr": lr, "betas": config.betas, "eps": config.eps}
    if not groups:
        return Optimizers(parts)
    if config.kind == "adamw8bit":
        parts.append(eightbit.build(groups, **settings))
    elif folder is not None:
        parts.append(offload.AdamW(groups, **settings, folder=folder))
    else:
        parts.append(torch.optim.AdamW(groups, **settings, fused=True))
    return Optimizers(parts)


class Optimizers:
    """Several optimizers that step together; each keeps the ratio to its own peak learning rate."""

    def __init__(self, parts: list[torch.optim.Optimizer]) -> None:
        self.parts = parts
        self.peaks = [[group["lr"] for group in part.param_groups] for part in parts]

    def step(self, factor: float) -> None:
        """One update at `factor` times the peak learning rates."""
        for part, peaks in zip(self.parts, self.peaks, strict=True):
            for group, peak in zip(part.param_groups, peaks, strict=True):
                group["lr"] = peak * factor
            part.step()

    def zero_grad(self) -> None:
        """Frees all gradients."""
        for part in self.parts:
            part.zero_grad(set_to_none=True)

    def state(self) -> dict[str, Tensor]:
        """All state as named tensors: part, parameter number, name."""
        tensors = {}
        for number, part in enumerate(self.parts):
            for index, values in part.state_dict()["state"].items():
                for name, value in values.items():
                    tensors[f"{number}.{index}.{name}"] = torch.as_tensor(value)
        return tensors

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Takes back what `state` gave."""
        for number, part in enumerate(self.parts):
            states: dict[int, dict[str, Any]] = {}
            parameters = [parameter for group in part.param_groups for parameter in group["params"]]
            for key in tensors:
                owner, index, name = key.split(".", 2)
                if int(owner) == number:
                    tensor, parameter = tensors[key], parameters[int(index)]
                    if tensor.shape == parameter.shape:  # a moment; else a count of steps
                        tensor = shards.cut_like(tensor, parameter)
                    states.setdefault(int(index), {})[name] = tensor
            part.load_state_dict({"state": states, "param_groups": part.state_dict()["param_groups"]})


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised (see the module's docstring); decoupled weight decay as in AdamW."""

    def __init__(
        self, matrices: list[nn.Parameter], lr: float, momentum: float, weight_decay: float,
        products: torch.dtype = torch.float32,
    ) -> None:  # fmt: skip
        super().__init__(matrices, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self.products = products

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Updates every matrix that has a gradient."""
        for group in self.param_groups:
            shapes: dict[torch.Size, list[nn.Parameter]] = {}
            for matrix in group["params"]:
                if matrix.grad is not None:
                    shapes.setdefault(matrix.shape, []).append(matrix)
            for same in shapes.values():
                self._update(same, group)

    def _update(self, matrices: list[nn.Parameter], group: dict[str, Any]) -> None:
        directions = []
        for matrix in matrices:
            state = self.state[matrix]
            if "momentum" not in state:
                state["momentum"] = torch.zeros_like(matrix)
            state["momentum"].lerp_(matrix.grad, 1 - group["momentum"])
            directions.append(shards.full(matrix.grad.lerp(state["momentum"], group["momentum"])))
        updates = orthogonal(torch.stack(directions).to(self.products))
        rows, columns = matrices[0].shape
        size = group["lr"] * max(1.0, rows / columns) ** 0.5
        for matrix, update in zip(matrices, updates.unbind(), strict=True):
            matrix.mul_(1 - group["lr"] * group["weight_decay"])
            matrix.add_(shards.cut_like(update.to(matrix.dtype), matrix), alpha=-size)


def orthogonal(matrices: Tensor, steps: int = 5) -> Tensor:
    """Roughly U·Vᵀ of each matrix [..., rows, columns] by a quintic Newton-Schulz iteration.

    Singular values end between about 0.7 and 1.2; the coefficients are those of the Muon authors.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    for _ in range(steps):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return x.mT if tall else x
