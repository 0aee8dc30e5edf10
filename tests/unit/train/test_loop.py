"""The loop's own bookkeeping: learning rates, clipping, what a step says, when it saves and what it reports."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from lmcraft.data.loader import Loader
from lmcraft.data.records import Where
from lmcraft.data.tokens import Document, write
from lmcraft.models import decoder, model
from lmcraft.train import checkpoint, loop, optim
from lmcraft.train.loss import summed_cross_entropy

VOCAB, WIDTH, BATCH = 29, 10, 4


class Stage:
    def loss(self, net, batch):
        return summed_cross_entropy(net, net(batch.tokens_BT, batch.segments_BT), batch.targets_BT)


@pytest.fixture
def loader(tmp_path):
    torch.set_num_threads(1)
    draw = np.random.default_rng(0)
    documents = [
        Document(draw.integers(0, VOCAB, 3 + n % 8).tolist(), None, Where("x", n)) for n in range(10)
    ]
    shard = write(tmp_path / "shard", documents, VOCAB, {}, Counter())
    return lambda: Loader(shard, WIDTH, BATCH, seed=0, pack=False)


def fresh() -> torch.nn.Module:
    torch.manual_seed(0)
    return model.build(decoder.Config(vocab=VOCAB, context=WIDTH, layers=1, width=16, heads=2))


def config(**settings) -> loop.Config:
    return loop.Config(**({"steps": 9, "batch_size": BATCH, "lr": 0.01, "precision": "fp32"} | settings))


def run(folder, loader, settings: loop.Config, net=None, said=None) -> list[loop.Step]:
    said = [] if said is None else said
    return list(
        loop.train(Stage(), net if net is not None else fresh(), loader, settings, folder, said.append)
    )


def test_learning_rates_follow_the_schedule(tmp_path, loader):
    """A shift by one would mean that every schedule starts late or never ends."""
    settings = config(optim=optim.Config(schedule="linear", warmup=0.3, final=0.1))
    steps = run(tmp_path / "c", loader(), settings)
    assert [s.lr for s in steps] == pytest.approx(
        [0.01 * optim.factor(settings.optim, n, 9) for n in range(9)]
    )
    assert steps[0].lr == pytest.approx(0.01 / 3.7) and steps[2].lr < steps[3].lr > steps[8].lr


def test_the_learning_rate_that_is_told_is_the_one_that_acts(tmp_path, loader):
    """A failure would mean that the curve of learning rates is fiction: here it is read off the update itself."""
    kind = optim.Config(
        kind="adamw", betas=(0.0, 0.0), eps=1e-12, weight_decay=0, schedule="linear", warmup=0, clip=0
    )
    net = fresh()
    before = net.embedding.weight.detach().clone()
    for step in loop.train(Stage(), net, loader(), config(optim=kind), tmp_path / "c", lambda text: None):
        moved = (net.embedding.weight.detach() - before).abs()
        assert float(moved.max()) == pytest.approx(
            step.lr, rel=1e-3
        )  # without averages Adam moves by lr · sign
        before = net.embedding.weight.detach().clone()


def test_a_step_says_what_was_done(tmp_path, loader):
    """A failure would mean that curves and reports show other numbers than what happened."""
    rows = loader()
    batches = [rows.next() for _ in range(9)]
    steps = run(tmp_path / "c", loader(), config())
    for number, (step, batch) in enumerate(zip(steps, batches, strict=True), start=1):
        assert (step.number, step.steps, step.targets, step.tokens) == (number, 9, batch.count, batch.tokens)
        assert step.epoch == pytest.approx(number * BATCH / 10)
        assert step.grad_norm > 0 and step.seconds > 0 and step.memory_bytes > 1 << 20
    net, first = fresh(), batches[0]
    loss = Stage().loss(net, first) / first.count
    loss.backward()
    norm = torch.stack([p.grad.square().sum() for p in net.parameters()]).sum().sqrt()
    assert steps[0].loss == pytest.approx(float(loss.detach()), rel=1e-5)
    assert steps[0].grad_norm == pytest.approx(float(norm), rel=1e-5)


@pytest.mark.parametrize("clip", [0.0, 0.001, 1e9])
def test_clipping_scales_the_whole_gradient(tmp_path, loader, clip, monkeypatch):
    """A failure would mean that one bad row can still throw the model far away, or that directions change."""
    seen = []
    step = optim.Optimizers.step

    def spy(self, factor):
        seen.append([p.grad.clone() for part in self.parts for g in part.param_groups for p in g["params"]])
        step(self, factor)

    monkeypatch.setattr(optim.Optimizers, "step", spy)
    told = run(tmp_path / "c", loader(), config(steps=1, optim=optim.Config(clip=clip)))[0].grad_norm
    norm = float(torch.stack([g.square().sum() for g in seen[0]]).sum().sqrt())
    assert norm == pytest.approx(clip if clip == 0.001 else told, rel=1e-3)
    assert told > 0.01  # what is told is the norm before clipping


@pytest.mark.parametrize("every,expected", [(1, [8, 9]), (4, [8, 9]), (3, [6, 9]), (100, [9])])
def test_it_saves_when_due_and_at_the_end(tmp_path, loader, every, expected):
    """A failure would mean that a finished run has no last state, or a killed one loses more than promised."""
    run(tmp_path / "c", loader(), config(save_every=every, keep=2))
    assert sorted(int(p.name[5:]) for p in (tmp_path / "c").glob("step-*")) == expected


def test_it_says_that_it_resumed_and_what_was_damaged(tmp_path, loader):
    """A failure would mean that a run silently begins again, or silently goes back."""
    said: list[str] = []
    steps = loop.train(Stage(), fresh(), loader(), config(save_every=2, keep=3), tmp_path / "c", said.append)
    for step in steps:
        if step.number == 6:
            break
    steps.close()
    assert said == []
    (tmp_path / "c" / "step-00000006" / "state.json").write_text("torn")
    numbers = [s.number for s in run(tmp_path / "c", loader(), config(save_every=2), said=said)]
    assert numbers == [5, 6, 7, 8, 9]
    assert len(said) == 2 and "step-00000006" in said[0] and said[1] == "resumed after step 4"


def test_a_run_at_its_end_takes_no_step(tmp_path, loader):
    """A failure would mean that a run killed after its last checkpoint trains one step too many."""
    net = fresh()
    run(tmp_path / "c", loader(), config(), net)
    again = fresh()
    assert run(tmp_path / "c", loader(), config(), again) == []
    for ours, theirs in zip(again.parameters(), net.parameters(), strict=True):
        assert torch.equal(ours, theirs)  # and yet the model is the trained one


def test_tied_weights_are_saved_once_and_stay_tied(tmp_path, loader):
    """A failure would mean that head and embedding drift apart after a restart (trap 21)."""
    run(tmp_path / "c", loader(), config())
    found, _ = checkpoint.newest(tmp_path / "c")
    assert found is not None
    assert ("embedding.weight" in found.tensors["model"]) != ("output.weight" in found.tensors["model"])
    net = fresh()
    run(tmp_path / "c", loader(), config(), net)
    assert net.output.weight is net.embedding.weight


def test_frozen_parameters_have_no_gradient_and_no_state(tmp_path, loader):
    """A failure would mean that freezing saves no memory (trap 18), or that frozen weights move."""
    net = fresh()
    for parameter in net.blocks.parameters():
        parameter.requires_grad_(False)
    before = {name: p.clone() for name, p in net.blocks.named_parameters()}
    run(tmp_path / "c", loader(), config(), net)
    assert all(torch.equal(p, before[name]) and p.grad is None for name, p in net.blocks.named_parameters())
    found, _ = checkpoint.newest(tmp_path / "c")
    assert found is not None
    trained = sum(p.numel() for p in net.parameters() if p.requires_grad)
    assert sum(t.numel() for t in found.tensors["optimizer"].values() if t.ndim) == 2 * trained


def test_dropout_acts_while_training(tmp_path, loader):
    """A failure would mean that the setting is accepted and ignored."""
    losses = []
    for dropout in (0.0, 0.5):
        torch.manual_seed(0)
        shape = decoder.Config(vocab=VOCAB, context=WIDTH, layers=1, width=16, heads=2, dropout=dropout)
        net = model.build(shape).eval()
        losses.append(run(tmp_path / str(dropout), loader(), config(steps=1), net)[0].loss)
        assert net.training
    assert losses[0] != losses[1]
