"""What does not fit into main memory lies in files beside the checkpoints: averages of the optimizer, frozen weights.

    optimizer    AdamW's two averages, 8 bytes a trained parameter: one parameter at a time comes in
    parameters   the frozen weights of the blocks: a block comes in for its forward, and again for its backward
    both         both

1. The update is torch's own AdamW on one parameter after the other, so it is equal to that in memory, bit for bit.
2. Weights are never copied: a layer reads the mapped file, and when it has been left its pages are taken out again.
   So they are always there for whoever reads them (saving, evaluation), only slower.
3. The files are made anew at each start and deleted at the end; a checkpoint holds what cannot be made again.
4. Room on the disk is reserved before training, not found missing in the middle of it.

Proved by tests/unit/train/test_offload.py and tests/invariance/test_offload.py.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

from ..core.disk import writing
from ..core.errors import UserError
from . import mapped
from .recompute import blocks_of

Offload = Literal["none", "optimizer", "parameters", "both"]
FOLDER = ".offload"
MOMENTS = ("exp_avg", "exp_avg_sq")
LEAST_BYTES = 1 << 12  # smaller tensors than a page of memory stay where they are


@contextlib.contextmanager
def outside(
    model: nn.Module, kind: Offload, checkpoints: Path | None, sharded: bool, name: str
) -> Iterator[Path | None]:
    """Within it, the frozen weights of the blocks lie on disk if they should; gives the folder for the
    optimizer's averages, or None where these stay in memory.

    Args:
        sharded: whether the model is cut over several processes.
        name: tells the processes of one run apart.

    Raises:
        UserError: a sharded model, an accelerator, nothing frozen, a full disk.
    """
    if kind == "none" or checkpoints is None:
        yield None
        return
    folder = checkpoints / FOLDER / name
    if sharded:
        raise UserError(
            "train.offload does not work on a model that is cut over processes", where=f"train.offload={kind}",
            why="each process holds its share only, so there is less to move out",
            fix="use more processes, or train.parallel=ddp",
        )  # fmt: skip
    shutil.rmtree(folder, ignore_errors=True)
    handles: list[Any] = []
    try:
        with writing(folder):
            folder.mkdir(parents=True)
        if kind != "optimizer":
            for number, block in enumerate(blocks_of(model, f"train.offload={kind}")):
                handles += _watch(block, _move_out(block, folder / f"block-{number}"))
            _refuse_nothing(model, handles, kind)
        yield None if kind == "parameters" else folder
    finally:
        for handle in handles:
            handle.remove()
        # Weights stay readable: a mapped file lives on without its name.
        shutil.rmtree(folder, ignore_errors=True)
        with contextlib.suppress(OSError):  # another process has its files there
            folder.parent.rmdir()


def _refuse_nothing(model: nn.Module, moved: list, kind: Offload) -> None:
    """Raises UserError where no weight could be moved out."""
    device = next(model.parameters()).device
    if device.type != "cpu":
        raise UserError(
            "frozen weights can be moved out of main memory only", where=f"train.offload={kind}",
            why=f"the model is on {device}, whose memory cannot map a file",
            fix="use a quantized base (adapter=qlora), or train.parallel=fsdp on several accelerators",
        )  # fmt: skip
    if not moved:
        raise UserError(
            "there is nothing to move out", where=f"train.offload={kind}",
            why="only frozen weights can lie on disk, and every weight of this model is trained",
            fix="train.offload=optimizer moves the optimizer's averages out; adapter=lora freezes the base",
        )  # fmt: skip


def _move_out(block: nn.Module, file: Path) -> list[nn.Parameter]:
    """Puts the frozen weights of a block into a file; those that it has put there."""
    moved = [
        parameter
        for parameter in block.parameters()
        if not parameter.requires_grad
        and type(parameter) is nn.Parameter
        and parameter.device.type == "cpu"
        and parameter.nbytes >= LEAST_BYTES
    ]
    for parameter, outside in zip(moved, mapped.create(file, moved) if moved else [], strict=True):
        outside.copy_(parameter.detach())
        parameter.data = outside
        mapped.forget(parameter)
    return moved


def _watch(block: nn.Module, weights: list[nn.Parameter]) -> list[Any]:
    """Lets the pages of a block's weights go after its forward, and after its backward."""

    def leave(*_: Any) -> None:
        for weight in weights:
            mapped.forget(weight)

    def enter(module: nn.Module, args: tuple) -> None:
        if args[0].requires_grad:  # its gradient is complete when the block's backward is
            args[0].register_hook(leave)

    return [block.register_forward_pre_hook(enter), block.register_forward_hook(leave)] if weights else []


class AdamW(torch.optim.Optimizer):
    """torch's AdamW with its averages in files (or, for an accelerator, in main memory), one parameter at a time."""

    def __init__(
        self, groups: list[dict[str, Any]], lr: float, betas: tuple[float, float], eps: float, folder: Path
    ) -> None:
        super().__init__(groups, {"lr": lr, "betas": betas, "eps": eps})
        order = [parameter for group in self.param_groups for parameter in group["params"]]
        places = [torch.empty_like(p, device="meta") for p in order for _ in MOMENTS]
        made = mapped.create(folder / "averages", places)
        self._averages = dict(zip(order, zip(made[::2], made[1::2], strict=True), strict=True))

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Updates every parameter that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group)

    def _update(self, parameter: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if "step" not in state:
            state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
        there = self._averages[parameter]
        here = [average.to(parameter.device) for average in there]
        beta1, beta2 = group["betas"]
        adamw(
            [parameter], [parameter.grad], [here[0]], [here[1]], [], [state["step"]], fused=True, amsgrad=False,
            beta1=beta1, beta2=beta2, lr=group["lr"], weight_decay=group["weight_decay"], eps=group["eps"],
            maximize=False,
        )  # fmt: skip
        for average, new in zip(there, here, strict=True):
            if new is not average:
                average.copy_(new)
            mapped.forget(average)

    def state_dict(self) -> dict[str, Any]:
        """As torch's, the averages still in their files."""
        found = super().state_dict()
        order = [parameter for group in self.param_groups for parameter in group["params"]]
        for number, values in found["state"].items():
            values |= dict(zip(MOMENTS, self._averages[order[number]], strict=True))
        return found

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes back what `state_dict` gave; the averages go into the files."""
        order = [parameter for group in self.param_groups for parameter in group["params"]]
        counts = {}
        for number, values in state_dict["state"].items():
            counts[number] = {"step": values["step"]}
            for name, average in zip(MOMENTS, self._averages[order[number]], strict=True):
                average.copy_(values[name])
                mapped.forget(average)
        super().load_state_dict({**state_dict, "state": counts})
