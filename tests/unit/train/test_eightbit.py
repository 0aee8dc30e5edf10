"""8-bit averages: near AdamW, a quarter of the bytes, the same after a restart, and a word about what is missing."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import nn

from lmcraft.core.errors import UserError
from lmcraft.train import checkpoint, optim

SHAPES = {
    "large": (64, 128),
    "table": (100, 64),
    "small": (7, 5),
    "vector": (40,),
}  # two of 4,096 numbers or more
KIND = {"betas": (0.9, 0.95), "weight_decay": 0.1}


def small() -> nn.ParameterDict:
    torch.manual_seed(0)
    return nn.ParameterDict({name: nn.Parameter(torch.randn(shape) * 0.1) for name, shape in SHAPES.items()})


def steps(net: nn.ParameterDict, optimizers: optim.Optimizers, numbers: range) -> None:
    """Steps towards a fixed target, each seen through noise of its own."""
    for number in numbers:
        torch.manual_seed(number)
        for name, parameter in net.items():
            parameter.grad = parameter.detach() - len(name) * 0.1 + 0.5 * torch.randn_like(parameter)
        optimizers.step(1.0)


@pytest.fixture
def eightbit() -> optim.Config:
    torch.set_num_threads(1)
    return optim.Config(kind="adamw8bit", **KIND)


def test_it_follows_adamw(eightbit):
    """A difference beyond rounding would mean that saving memory trains another model."""
    ours, theirs, start = small(), small(), small()
    steps(ours, optim.build(eightbit, 1e-2, ours), range(50))
    steps(theirs, optim.build(optim.Config(kind="adamw", **KIND), 1e-2, theirs), range(50))
    for name, mine in ours.items():
        moved = (theirs[name] - start[name]).norm()
        rounding = 0.05 if mine.numel() >= 4096 else 1e-4
        assert (mine - theirs[name]).norm() < rounding * moved, name


def test_averages_take_a_byte_each(eightbit):
    """More would mean that nothing is saved."""
    net = small()
    optimizers = optim.build(eightbit, 1e-2, net)
    steps(net, optimizers, range(1))
    sizes: dict[str, int] = {}
    order = [p for group in optimizers.parts[0].param_groups for p in group["params"]]
    for key, tensor in optimizers.state().items():
        _, index, name = key.split(".")
        if name != "step":
            shape = str(tuple(order[int(index)].shape))
            sizes[shape] = sizes.get(shape, 0) + tensor.nbytes
    for shape in SHAPES.values():
        numbers = torch.Size(shape).numel()
        expected = 2 * (numbers + 4 * (numbers // 256)) if numbers >= 4096 else 8 * numbers
        assert sizes[str(shape)] == expected


def test_a_restart_changes_nothing(eightbit, tmp_path):
    """A difference would mean that codes, scales or step counts are lost on the way through a checkpoint."""
    net = small()
    optimizers = optim.build(eightbit, 1e-2, net)
    steps(net, optimizers, range(3))
    saved = checkpoint.Checkpoint(3, {"model": dict(net.state_dict()), "optimizer": optimizers.state()}, {})
    checkpoint.save(tmp_path, saved, keep=1)
    steps(net, optimizers, range(3, 6))
    found, _ = checkpoint.newest(tmp_path)
    assert found is not None
    other = small()
    other.load_state_dict(dict(found.tensors["model"]))
    again = optim.build(eightbit, 1e-2, other)
    again.restore(found.tensors["optimizer"])
    steps(other, again, range(3, 6))
    for name, parameter in net.items():
        assert torch.equal(parameter, other[name]), name


def test_without_the_library_it_says_what_to_install(monkeypatch):
    """A traceback would mean that the user has to guess."""
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(UserError, match="needs bitsandbytes") as told:
        optim.build(optim.Config(kind="adamw8bit"), 1e-3, small())
    assert "pip install" in str(told.value.fix)
