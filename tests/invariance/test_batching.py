"""How many rows go through a model at once changes no number: held-out loss, perplexity, scores, samples."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from lmcraft.data.loader import Loader
from lmcraft.data.records import Where
from lmcraft.data.tokens import Document, write
from lmcraft.models import decoder, model, rnn
from lmcraft.stages import stage
from lmcraft.train.heldout import held_out_loss

VOCAB, WIDTH = 47, 20


class NextToken:
    def loss(self, net, batch):
        return stage.next_token_loss(net, batch)


@pytest.fixture
def loader(tmp_path):
    torch.set_num_threads(1)
    draw = np.random.default_rng(0)
    documents = [
        Document(
            ids := draw.integers(0, VOCAB, draw.integers(3, 30)).tolist(), [True] * len(ids), Where("x", n)
        )
        for n in range(40)
    ]
    return Loader(write(tmp_path / "shard", documents, VOCAB, {}, Counter()), WIDTH, 4, seed=0)


def build(kind: str):
    torch.manual_seed(0)
    size = {"vocab": VOCAB, "context": WIDTH, "layers": 2, "width": 16, "dropout": 0.5}
    return model.build(
        decoder.Config(heads=2, **size) if kind == "decoder" else rnn.Config(cell=kind, **size)
    )


@pytest.mark.parametrize("kind", ["decoder", "lstm"])
def test_held_out_loss_does_not_depend_on_the_batch(loader, kind):
    """A difference would mean that the curve of held-out loss depends on the machine's memory."""
    net = build(kind)
    rows = len(loader.rows)
    values = [held_out_loss(NextToken(), net, loader, rows, size, "fp32") for size in (1, 3, rows, 1000)]
    assert values == pytest.approx([values[0]] * 4, rel=1e-6)
    assert held_out_loss(NextToken(), net, loader, 10 * rows, 4, "fp32") == pytest.approx(values[0], rel=1e-6)
    assert held_out_loss(NextToken(), net, loader, 3, 4, "fp32") != pytest.approx(values[0], rel=1e-4)


def test_held_out_loss_is_the_mean_over_targets(loader):
    """A difference would mean a mean of means: short rows would count as much as long ones."""
    net = build("decoder").eval()
    with torch.no_grad():
        total = count = 0.0
        for row in range(len(loader.rows)):
            batch = loader.batch([row])
            total, count = total + float(NextToken().loss(net, batch)), count + batch.count
    assert held_out_loss(NextToken(), net, loader, 1000, 4, "fp32") == pytest.approx(total / count, rel=1e-6)


def test_held_out_loss_leaves_everything_as_it_was(loader):
    """A change would mean that looking at the held-out loss changes what is learned."""
    net = build("decoder")
    for mode in (True, False):
        net.train(mode)
        before, read = torch.get_rng_state(), loader.read
        first = held_out_loss(NextToken(), net, loader, 9, 4, "fp32")
        assert first == held_out_loss(NextToken(), net, loader, 9, 4, "fp32")  # no dropout
        assert net.training is mode and loader.read == read
        assert torch.equal(torch.get_rng_state(), before)
        assert all(parameter.grad is None for parameter in net.parameters())
