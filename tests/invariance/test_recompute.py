"""Gradients with checkpointing equal those without, bit for bit, dropout and frozen bases included."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lmcraft.adapt.adapter import Part, freeze, put_beside
from lmcraft.core.errors import UserError
from lmcraft.layers.source import Source
from lmcraft.models import decoder, encdec, encoder, model, rnn
from lmcraft.models.heads import around
from lmcraft.train.loss import summed_cross_entropy
from lmcraft.train.recompute import recomputing

VOCAB, LENGTH = 31, 12
SIZE = {"vocab": VOCAB, "context": LENGTH, "layers": 2, "width": 16, "heads": 2, "dropout": 0.3}


class LowRank(Part):
    """As LoRA begins: the second matrix is zero."""

    def __init__(self, module: nn.Linear) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.randn(2, module.in_features))
        self.b = nn.Parameter(torch.zeros(module.out_features, 2))

    def forward(self, x, output, module):
        return output + nn.functional.dropout(x, 0.2, self.training) @ self.a.T @ self.b.T


def made(kind: str) -> nn.Module:
    torch.manual_seed(0)
    configs = {"encoder": encoder.Config, "encdec": encdec.Config, "classes": encoder.Config}
    net = model.build(configs.get(kind, decoder.Config)(**SIZE))
    if kind == "classes":
        return around(net, task="classes", labels=("a", "b"), pooling="mean").train()
    if kind == "adapted":
        freeze(net)
        for block in net.blocks:
            put_beside(block.attn.q, "lora", LowRank(block.attn.q))
            put_beside(block.mlp.up, "lora", LowRank(block.mlp.up))
    return net.train()


def gradients(kind: str, on: bool) -> dict[str, torch.Tensor | None]:
    net = made(kind)
    torch.manual_seed(1)
    tokens_BT = torch.randint(1, VOCAB, (3, LENGTH))
    extra = {"source": Source(tokens_BT, torch.ones_like(tokens_BT))} if kind == "encdec" else {}
    with recomputing(net, on):
        hidden_BTD = net(tokens_BT, torch.ones_like(tokens_BT), **extra)
        summed_cross_entropy(net, hidden_BTD, tokens_BT % 2).backward()
        torch.rand(1)
    found = {name: p.grad for name, p in net.named_parameters() if p.requires_grad}
    return {**found, "random state": torch.rand(4)}


@pytest.mark.parametrize("kind", ["decoder", "encoder", "encdec", "classes", "adapted"])
def test_gradients_are_the_same_to_the_bit(kind):
    """A difference would mean that saving memory changes what is learned: other dropout, or a part left out."""
    off, on = gradients(kind, False), gradients(kind, True)
    assert off.keys() == on.keys()
    for name, gradient in off.items():
        assert (gradient is None) == (on[name] is None), name
        assert gradient is None or torch.equal(gradient, on[name]), name


def test_what_stands_beside_a_frozen_base_is_trained():
    """A gradient that is missing would mean that an adapter never leaves its start (the reentrant form does that)."""
    found = gradients("adapted", True)
    second = [gradient for name, gradient in found.items() if name.endswith(".b")]
    assert len(second) == 4 and all(g is not None and g.abs().max() > 0 for g in second)


def test_blocks_keep_only_their_inputs():
    """More would mean that nothing is saved."""
    kept = []
    for on in (False, True):
        net = made("decoder")
        tokens_BT = torch.randint(1, VOCAB, (3, LENGTH))
        sizes: list[int] = []

        def pack(tensor, sizes=sizes):
            sizes.append(tensor.numel())
            return tensor

        with recomputing(net, on), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            net(tokens_BT)
        kept.append(sum(sizes))
    assert kept[1] < 0.4 * kept[0]


def test_the_model_is_as_before_afterwards():
    """A failure would mean that generation after training pays for checkpointing."""
    net = made("decoder")
    with recomputing(net, True):
        assert "forward" in vars(net.blocks[0])
    assert all("forward" not in vars(block) for block in net.blocks)


def test_a_recurrent_network_says_why_not():
    """Silence would mean that somebody believes to have saved memory."""
    net = model.build(rnn.Config(vocab=VOCAB, layers=1, width=8))
    with pytest.raises(UserError, match="no blocks"), recomputing(net, True):
        raise AssertionError("it was accepted")
