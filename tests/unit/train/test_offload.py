"""What lies in files: averages equal to those in memory, weights that cannot be lost, and requests that are refused."""

from __future__ import annotations

import errno
import os

import pytest
import torch
from torch import nn

from lmcraft.core.errors import UserError
from lmcraft.models import decoder, model, rnn
from lmcraft.train import checkpoint, mapped, optim
from lmcraft.train.offload import FOLDER, outside

SIZE = {"vocab": 31, "context": 16, "layers": 2, "width": 32, "heads": 2}
ADAMW = optim.Config(kind="adamw", weight_decay=0.1)


def small() -> nn.Module:
    torch.manual_seed(0)
    return model.build(decoder.Config(**SIZE))


def frozen() -> nn.Module:
    net = small()
    for block in net.blocks:
        block.requires_grad_(False)
    return net


def steps(net: nn.Module, optimizers: optim.Optimizers, numbers: range) -> None:
    for number in numbers:
        torch.manual_seed(number)
        for parameter in net.parameters():
            parameter.grad = torch.randn_like(parameter)
        optimizers.step(0.5 + number / 10)


def test_what_is_forgotten_comes_back(tmp_path):
    """A difference would mean that a weight on disk is lost or torn."""
    tensor, other = mapped.create(tmp_path / "numbers", [torch.zeros(50, 100), torch.zeros(3)])
    other.fill_(7)
    assert float(tensor.abs().sum()) == 0
    tensor.copy_(torch.arange(5000.0).view(50, 100))
    mapped.forget(tensor)
    assert torch.equal(tensor, torch.arange(5000.0).view(50, 100))
    assert other.tolist() == [7, 7, 7]
    assert (tmp_path / "numbers").stat().st_size == 5 * 4096 + 4096
    mapped.forget(torch.zeros(3))  # any other tensor is left alone


def test_a_full_disk_is_told_before_training(tmp_path, monkeypatch):
    """A crash (SIGBUS) in the middle of a step would mean that the run is lost without a word."""

    def full(*_):
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(UserError), outside(frozen(), "parameters", tmp_path, False, "0"):
        raise AssertionError("it went on")


def test_the_update_is_adamws_bit_for_bit(tmp_path):
    """A difference would mean that a small memory trains another model."""
    ours, theirs = small(), small()
    with outside(ours, "optimizer", tmp_path, False, "0") as folder:
        steps(ours, optim.build(ADAMW, 1e-2, ours, folder=folder), range(5))
    steps(theirs, optim.build(ADAMW, 1e-2, theirs), range(5))
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(mine, other)
    assert not (tmp_path / FOLDER).exists()


@pytest.mark.parametrize(
    "first,then", [("optimizer", "none"), ("none", "optimizer"), ("optimizer", "optimizer")]
)
def test_a_checkpoint_does_not_know_where_averages_lay(first, then, tmp_path):
    """A difference would mean that a run cannot go on when there is more memory, or less."""
    expected = small()
    steps(expected, optim.build(ADAMW, 1e-2, expected), range(6))
    net = small()
    with outside(net, first, tmp_path, False, "0") as folder:
        optimizers = optim.build(ADAMW, 1e-2, net, folder=folder)
        steps(net, optimizers, range(3))
        checkpoint.save(
            tmp_path / "c", checkpoint.Checkpoint(3, {"optimizer": optimizers.state()}, {}), keep=1
        )
    found, _ = checkpoint.newest(tmp_path / "c")
    assert found is not None
    with outside(net, then, tmp_path, False, "0") as folder:
        optimizers = optim.build(ADAMW, 1e-2, net, folder=folder)
        optimizers.restore(found.tensors["optimizer"])
        steps(net, optimizers, range(3, 6))
    for mine, other in zip(net.parameters(), expected.parameters(), strict=True):
        assert torch.equal(mine, other)


def test_frozen_weights_lie_in_files_and_stay_readable(tmp_path):
    """A failure would mean that the model is broken once training is over and the files are gone."""
    net = frozen()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    with outside(net, "parameters", tmp_path, False, "0") as folder:
        assert folder is None
        files = list((tmp_path / FOLDER).rglob("block-*"))
        large = [p for block in net.blocks for p in block.parameters() if p.nbytes >= 4096]
        assert (
            len(files) == 2 and sum(file.stat().st_size for file in files) >= sum(p.nbytes for p in large) > 0
        )
    assert not (tmp_path / FOLDER).exists()
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_requests_that_cannot_work_are_refused(tmp_path):
    """Silence would mean that somebody believes to have saved memory."""
    cases = [
        (small(), "parameters", False, "nothing to move out"),
        (frozen(), "parameters", True, "cut over processes"),
        (model.build(rnn.Config(vocab=31, layers=1, width=8)), "both", False, "no blocks"),
    ]
    for net, kind, sharded, message in cases:
        with pytest.raises(UserError, match=message), outside(net, kind, tmp_path, sharded, "0"):
            raise AssertionError("it was accepted")
    with pytest.raises(UserError, match="cannot lie on disk") as told:
        optim.build(optim.Config(kind="muon"), 1e-3, small(), folder=tmp_path)
    assert "train.optim.kind=adamw" in str(told.value.fix)
