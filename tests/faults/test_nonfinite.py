"""A NaN or an infinity, wherever it appears, stops training with step and rows named, and is never saved."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from lmcraft.core.errors import UserError
from lmcraft.data.loader import Loader
from lmcraft.data.records import Where
from lmcraft.data.tokens import Document, write
from lmcraft.models import decoder, model
from lmcraft.train import checkpoint, loop
from lmcraft.train.loss import summed_cross_entropy

VOCAB, WIDTH = 31, 12


class Stage:
    """Next-token loss that breaks at one step, in one micro-batch."""

    def __init__(self, breaks_at: int = 0, how: str = "") -> None:
        self.calls, self.breaks_at, self.how = 0, breaks_at, how

    def loss(self, net, batch):
        self.calls += 1
        value = summed_cross_entropy(net, net(batch.tokens_BT, batch.segments_BT), batch.targets_BT)
        if self.calls != self.breaks_at:
            return value
        return {"inf": value * float("inf"), "nan": value * float("nan"), "gradient": _Bad.apply(value)}[
            self.how
        ]


class _Bad(torch.autograd.Function):
    """A finite loss with a gradient that is not."""

    @staticmethod
    def forward(ctx, value):
        return value.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * float("nan")


@pytest.fixture
def loader(tmp_path):
    torch.set_num_threads(1)
    draw = np.random.default_rng(0)
    documents = [
        Document(draw.integers(0, VOCAB, 8).tolist(), None, Where("rows.jsonl", n + 1)) for n in range(12)
    ]
    shard = write(tmp_path / "shard", documents, VOCAB, {}, Counter())
    return lambda: Loader(shard, WIDTH, 4, seed=0, pack=False)


def fresh() -> torch.nn.Module:
    torch.manual_seed(0)
    return model.build(decoder.Config(vocab=VOCAB, context=WIDTH, layers=2, width=16, heads=2))


def config(**settings) -> loop.Config:
    given = {
        "steps": 8,
        "batch_size": 4,
        "micro_batch_size": 2,
        "lr": 1e-3,
        "precision": "fp32",
        "save_every": 1,
    }
    return loop.Config(**(given | settings))


def assert_last_checkpoint_is_good(folder, before: int) -> None:
    found, faults = checkpoint.newest(folder)
    assert found is not None and not faults and found.step <= before
    for part in ("model", "optimizer"):
        for name, tensor in found.tensors[part].items():
            assert tensor.isfinite().all(), name


@pytest.mark.parametrize("how", ["inf", "nan", "gradient"])
@pytest.mark.parametrize("call", [3, 6, 9, 14])
def test_a_loss_or_gradient_that_is_not_finite(loader, tmp_path, how, call):
    """A failure would mean that one bad row destroys a model, and the run goes on as if nothing were wrong."""
    net, rows = fresh(), loader()
    seen, weights = 0, None
    with pytest.raises(UserError) as caught:
        for step in loop.train(Stage(call, how), net, rows, config(), tmp_path / "c", lambda text: None):
            seen = step.number
            weights = [parameter.detach().clone() for parameter in net.parameters()]
    broken = (call + 1) // 2
    assert seen == broken - 1
    assert f"step {broken} " in caught.value.what
    again = loader()
    again.read = 4 * seen
    guilty = again.next().rows if how == "gradient" else list(again.next().split(2))[(call - 1) % 2].rows
    assert caught.value.where == "; ".join(guilty)
    assert ("gradient" in caught.value.what) == (how == "gradient")
    if how == "gradient":
        assert any(name in caught.value.what for name, _ in net.named_parameters())
    for parameter, before in zip(net.parameters(), weights or [], strict=True):
        assert torch.equal(parameter, before)  # nothing was updated
    assert_last_checkpoint_is_good(tmp_path / "c", before=seen)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("case", range(8))
def test_a_broken_weight_is_noticed_and_never_saved(loader, tmp_path, value, case):
    """A failure would mean a checkpoint that no restart can recover from."""
    draw = np.random.default_rng(case)
    net, at = fresh(), int(draw.integers(1, 7))
    names = dict(net.named_parameters())
    name = sorted(names)[int(draw.integers(len(names)))]
    save_every = int(draw.choice([1, 3, 100]))
    with pytest.raises(UserError) as caught:
        for step in loop.train(
            Stage(), net, loader(), config(save_every=save_every), tmp_path / "c", lambda _: None
        ):
            assert step.number <= at
            if step.number == at:
                with torch.no_grad():
                    names[name].view(-1)[int(draw.integers(names[name].numel()))] = value
    assert f"step {at} " in caught.value.what or f"step {at + 1} " in caught.value.what
    assert "rows.jsonl:" in caught.value.where
    if save_every <= at - 1:
        assert_last_checkpoint_is_good(tmp_path / "c", before=at)
    for path in (tmp_path / "c").glob("*"):
        assert checkpoint.verify(path) is None
        assert all(t.isfinite().all() for t in checkpoint.read(path).tensors["model"].values())


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_an_update_that_overflows_is_never_saved(loader, tmp_path, optimizer):
    """A failure would mean that a much too large learning rate leaves a run that can only be thrown away."""
    settings = {"optim": {"kind": optimizer, "warmup": 0, "weight_decay": 0.0}, "lr": 1e37}
    with pytest.raises(UserError, match=r"not finite|loss of"):
        for _ in loop.train(
            Stage(), fresh(), loader(), config(**settings), tmp_path / "c", lambda text: None
        ):
            pass
    found, _ = checkpoint.newest(tmp_path / "c")
    assert found is None or all(t.isfinite().all() for t in found.tensors["model"].values())


def test_after_the_cause_is_mended_the_run_goes_on(loader, tmp_path):
    """A failure would mean that a run is lost although its last checkpoint is good."""

    def train(stage, folder):
        net = fresh()
        for _ in loop.train(stage, net, loader(), config(), folder, lambda text: None):
            pass
        return net.state_dict()

    with pytest.raises(UserError):
        train(Stage(9, "nan"), tmp_path / "c")
    mended, whole = train(Stage(), tmp_path / "c"), train(Stage(), tmp_path / "whole")
    assert all(torch.equal(mended[name], whole[name]) for name in whole)
