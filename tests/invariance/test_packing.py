"""Packing only saves padding: losses, hidden states and gradients are those of the documents apart."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from lmcraft.data.loader import Loader
from lmcraft.data.records import Where
from lmcraft.data.tokens import Document, write
from lmcraft.models import decoder, model, rnn
from lmcraft.train.loss import summed_cross_entropy

VOCAB, WIDTH = 53, 32
DECODERS = {
    "rotary": {},
    "learned": {"positions": "learned"},
    "sinusoidal": {"positions": "sinusoidal"},
    "window": {"window": 4},
    "grouped": {"kv_heads": 1},
    "gpt2": {"positions": "learned", "norm": "layernorm", "mlp": "gelu", "bias": "all"},
}
MODELS = [*DECODERS, "rnn", "lstm"]


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def build(name: str) -> torch.nn.Module:
    torch.manual_seed(1)
    size = {"vocab": VOCAB, "context": WIDTH, "layers": 2, "width": 32}
    if name in DECODERS:
        return model.build(decoder.Config(heads=4, **size, **DECODERS[name])).double()
    return model.build(rnn.Config(cell=name, **size)).double()


def shard(folder, seed=0, documents=30, longest=WIDTH + 1):
    """Documents of 2 … `longest` ids, about two thirds of them trained."""
    draw = np.random.default_rng(seed)

    def made():
        for line in range(1, documents + 1):
            ids = draw.integers(0, VOCAB, draw.integers(2, longest + 1)).tolist()
            trained = (draw.random(len(ids)) < 0.65).tolist()
            trained[-1] = True
            yield Document(ids, trained, Where("made.jsonl", line))

    return write(folder, made(), VOCAB, {}, Counter())


def loss(net, batch) -> torch.Tensor:
    return summed_cross_entropy(net, net(batch.tokens_BT, batch.segments_BT), batch.targets_BT)


def everything(loader: Loader):
    return loader.batch(list(range(len(loader.rows))))


@pytest.mark.parametrize("name", MODELS)
def test_packed_loss_is_the_sum_of_the_documents(name, tmp_path):
    """A difference would mean that documents of a row see each other, or that targets are lost."""
    net, tokens = build(name), shard(tmp_path / "shard")
    packed, apart = (everything(Loader(tokens, WIDTH, 4, 0, pack=pack)) for pack in (True, False))
    assert len(packed.tokens_BT) < len(apart.tokens_BT)
    assert packed.count == apart.count
    torch.testing.assert_close(loss(net, packed), loss(net, apart), rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", MODELS)
def test_packed_gradient_is_the_sum_of_the_documents(name, tmp_path):
    """A difference would mean that packing changes what is learned although the loss looks the same."""
    net, tokens = build(name), shard(tmp_path / "shard", documents=12)
    gradients = []
    for pack in (True, False):
        net.zero_grad()
        loss(net, everything(Loader(tokens, WIDTH, 4, 0, pack=pack))).backward()
        gradients.append([p.grad.clone() for p in net.parameters()])
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", MODELS)
def test_ignoring_segments_would_be_noticed(name, tmp_path):
    """If this fails, the tests above could not tell packing with a mask from packing without one."""
    net, tokens = build(name), shard(tmp_path / "shard")
    packed, apart = (everything(Loader(tokens, WIDTH, 4, 0, pack=pack)) for pack in (True, False))
    naive = summed_cross_entropy(net, net(packed.tokens_BT), packed.targets_BT)
    assert abs(float(naive.detach()) - float(loss(net, apart).detach())) > 1e-3


def test_documents_longer_than_a_row_keep_all_targets(tmp_path):
    """A difference would mean that tokens at the cuts of long documents are never trained."""
    tokens = shard(tmp_path / "shard", documents=8, longest=5 * WIDTH)
    for pack in (True, False):
        loader = Loader(tokens, WIDTH, 4, 0, pack=pack)
        batch = everything(loader)
        expected = int(tokens.trained.sum()) - int(
            tokens.trained[tokens.offsets[:-1]].sum()
        )  # all but first ids
        assert batch.count == expected == loader.fill.targets
