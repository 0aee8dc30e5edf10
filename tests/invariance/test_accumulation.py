"""Micro-batches are only a way to save memory: 1×16, 2×8, 4×4 and 16×1 rows give the same training."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from lmcraft.data.loader import Loader
from lmcraft.data.records import Where
from lmcraft.data.tokens import Document, write
from lmcraft.models import decoder, model, rnn
from lmcraft.train import loop, optim
from lmcraft.train.loss import summed_cross_entropy

VOCAB, WIDTH, ROWS, STEPS = 41, 24, 16, 4
TOLERANCE = 1e-6
# Two trainings that only add in another order differ at random; a wrong divisor pulls every weight one way.
SIGMAS = 5.0


class NextToken:
    """The summed loss that every stage gives."""

    def loss(self, net, batch):
        return summed_cross_entropy(net, net(batch.tokens_BT, batch.segments_BT), batch.targets_BT)


class MeanOfMeans(NextToken):
    """The fault of transformers#34191: each micro-batch is averaged over its own targets."""

    def __init__(self, batch_count: float) -> None:
        self.batch_count = batch_count

    def loss(self, net, batch):
        return super().loss(net, batch) / batch.count * self.batch_count


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def loader(tmp_path):
    """Documents of uneven length, some with a single trained token; one a row."""
    draw = np.random.default_rng(0)
    documents = []
    for number in range(ROWS * STEPS):
        ids = draw.integers(1, VOCAB, draw.integers(5, WIDTH + 1)).tolist()
        trained = [False] * len(ids)
        trained[-1] = True
        if number % 3:
            trained[1:] = (draw.random(len(ids) - 1) < 0.8).tolist()
            trained[-1] = True
        documents.append(Document(ids, trained, Where("made.jsonl", number + 1)))
    shard = write(tmp_path / "shard", iter(documents), VOCAB, {}, Counter())
    return lambda: Loader(shard, WIDTH, ROWS, seed=1, pack=False)


def fresh(kind: str) -> torch.nn.Module:
    torch.manual_seed(3)
    size = {"vocab": VOCAB, "context": WIDTH, "layers": 2, "width": 32}
    config = (
        decoder.Config(heads=4, kv_heads=2, **size) if kind == "decoder" else rnn.Config(cell=kind, **size)
    )
    return model.build(config)


def trained(kind, optimizer, loader, micro, folder, stage=None) -> torch.Tensor:
    """All weights after a few steps, as one vector."""
    net, rows = fresh(kind), loader()
    config = loop.Config(
        steps=STEPS, batch_size=ROWS, micro_batch_size=micro, lr=1e-3, precision="fp32", save_every=1000,
        optim=optim.Config(kind=optimizer, warmup=0, schedule="constant", eps=1e-4),
    )  # fmt: skip
    for _ in loop.train(stage or NextToken(), net, rows, config, folder, lambda text: None):
        pass
    return torch.cat([parameter.detach().flatten() for parameter in net.parameters()]).double()


def complaints(found: torch.Tensor, expected: torch.Tensor, start: torch.Tensor) -> list[str]:
    """What tells two trainings apart: a large difference, or a small one that points along the update."""
    residual, update = found - expected, expected - start
    said = []
    if residual.abs().max() > TOLERANCE:
        said.append(f"largest difference {float(residual.abs().max()):.1e}")
    if residual.abs().max() > 0:
        along = residual * update.sign()
        if along.mean().abs() > SIGMAS * along.std() / len(along) ** 0.5 and along.mean().abs() > 1e-9:
            said.append(f"mean signed residual {float(along.mean()):.1e}")
    return said


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("kind", ["decoder", "lstm", "rnn"])
def test_micro_batches_give_the_same_weights(kind, optimizer, loader, tmp_path):
    """A difference would mean that what is learned depends on how much memory the machine has."""
    whole = trained(kind, optimizer, loader, None, tmp_path / "16")
    start = torch.cat([p.detach().flatten() for p in fresh(kind).parameters()]).double()
    assert (whole - start).abs().max() > 1e-3  # or there is nothing to compare
    for micro in (8, 4, 3, 1):
        found = trained(kind, optimizer, loader, micro, tmp_path / str(micro))
        assert not complaints(found, whole, start), micro


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("micro", [8, 4, 1])
def test_a_mean_of_means_would_be_caught(optimizer, micro, loader, tmp_path):
    """If this fails, the check above is too weak to notice the fault it exists for."""
    counts = []
    rows = loader()
    for _ in range(STEPS):
        counts.append(rows.next().count)
    whole = trained("decoder", optimizer, loader, None, tmp_path / "whole")
    start = torch.cat([p.detach().flatten() for p in fresh("decoder").parameters()]).double()
    wrong = MeanOfMeans(batch_count=sum(counts) / len(counts) * micro / ROWS)
    found = trained("decoder", optimizer, loader, micro, tmp_path / "wrong", wrong)
    assert complaints(found, whole, start)


def test_a_bias_below_the_tolerance_would_be_caught(loader, tmp_path):
    """If this fails, a fault of a ten-thousandth of every update could hide in rounding."""
    whole = trained("decoder", "adamw", loader, None, tmp_path / "16")
    start = torch.cat([p.detach().flatten() for p in fresh("decoder").parameters()]).double()
    found = trained("decoder", "adamw", loader, 4, tmp_path / "4") + 5e-5 * (whole - start)
    assert (found - whole).abs().max() < TOLERANCE
    assert complaints(found, whole, start)


def test_loss_and_gradient_norm_do_not_depend_on_micro_batches(loader, tmp_path):
    """A difference would mean that curves of two machines cannot be compared, or that clipping acts differently."""
    seen = {}
    for micro in (16, 4, 1):
        config = loop.Config(steps=STEPS, batch_size=ROWS, micro_batch_size=micro, lr=1e-3, precision="fp32")
        steps = loop.train(
            NextToken(), fresh("decoder"), loader(), config, tmp_path / str(micro), lambda text: None
        )
        seen[micro] = [(step.loss, step.grad_norm, step.targets, step.tokens) for step in steps]
    for micro in (4, 1):
        np.testing.assert_allclose(seen[micro], seen[16], rtol=2e-5)


def test_a_micro_batch_without_targets_adds_nothing(loader, tmp_path):
    """A NaN or another result would mean that rows of mere prompts spoil the rows beside them."""
    net = fresh("decoder")
    batch = loader().next()
    batch.targets_BT[3] = -100
    parts = list(batch.split(1))
    assert parts[3].count == 0
    losses = [NextToken().loss(net, part) for part in parts]
    sum(losses).backward()
    split = [parameter.grad.clone() for parameter in net.parameters()]
    net.zero_grad()
    NextToken().loss(net, batch).backward()
    assert float(losses[3].detach()) == 0.0
    for ours, theirs in zip(split, [p.grad for p in net.parameters()], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
