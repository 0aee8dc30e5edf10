"""Head and loss in chunks: every trained part of the head gets the full loss's gradient, and no logits are held."""

from __future__ import annotations

import gc

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lmcraft.adapt.adapter import Part, freeze, put_beside
from lmcraft.data.batch import IGNORE
from lmcraft.models import decoder, encoder, model
from lmcraft.models.heads import around
from lmcraft.train import loss as losses
from lmcraft.train.loss import cross_entropies, rows_of, summed_cross_entropy

VOCAB, ROWS, LENGTH = 37, 3, 50


class LowRank(Part):
    """Two small matrices beside a linear layer, as LoRA has them."""

    def __init__(self, module: nn.Linear) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.randn(2, module.in_features) * 0.1)
        self.b = nn.Parameter(torch.randn(module.out_features, 2) * 0.1)

    def forward(self, x, output, module):
        return output + x @ self.a.T @ self.b.T


def made(kind: str) -> nn.Module:
    torch.manual_seed(0)
    size = {"vocab": VOCAB, "context": LENGTH, "layers": 1, "width": 8, "heads": 2}
    if kind in ("tied", "untied"):
        net = model.build(decoder.Config(**size, tied=kind == "tied"))
    elif kind == "bert":
        net = model.build(encoder.Config(**size))
    elif kind == "classes":
        net = around(
            model.build(encoder.Config(**size)),
            task="classes",
            labels=tuple("abcde"),
            pooling="cls",
            pooler=True,
        )
    else:
        net = model.build(decoder.Config(**size))
        freeze(net)
        put_beside(net.output, "lora", LowRank(net.output))
        if kind == "lora":
            put_beside(net.blocks[0].attn.q, "lora", LowRank(net.blocks[0].attn.q))
    return net.double()


def full_loss(net, hidden_BTD, targets_BT, smoothing):
    logits_NV = net.head(hidden_BTD.flatten(0, 1))
    return F.cross_entropy(
        logits_NV, targets_BT.flatten(), ignore_index=IGNORE, reduction="sum", label_smoothing=smoothing
    )


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("kind", ["tied", "untied", "bert", "classes", "lora", "lora-in-the-head-only"])
def test_every_trained_part_has_the_gradient_of_the_full_loss(kind, smoothing, monkeypatch):
    """A difference would mean that a part of the model is trained on another loss, or not at all."""
    monkeypatch.setattr(losses, "HEAD_ELEMENTS", VOCAB * 16)
    torch.manual_seed(1)
    tokens_BT = torch.randint(0, VOCAB, (ROWS, LENGTH))
    targets_BT = torch.randint(0, 5, (ROWS, LENGTH))
    targets_BT[0, 7:] = IGNORE
    found = {}
    for name, loss in (("chunks", summed_cross_entropy), ("full", full_loss)):
        net = made(kind)
        total = loss(net, net(tokens_BT), targets_BT, smoothing)
        (total / 11).backward()
        gradients = {n: p.grad for n, p in net.named_parameters() if p.requires_grad and p.grad is not None}
        found[name] = (total.detach(), gradients)
    (ours, mine), (theirs, expected) = found["chunks"], found["full"]
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)
    assert mine.keys() == expected.keys() and len(mine) >= 2
    for name, gradient in expected.items():
        torch.testing.assert_close(mine[name], gradient, rtol=1e-12, atol=1e-13, msg=name)


def test_only_one_chunk_of_logits_is_ever_there(monkeypatch):
    """More would mean that the memory for logits grows with the batch after all."""
    monkeypatch.setattr(losses, "HEAD_ELEMENTS", VOCAB * 32)
    monkeypatch.setattr(losses, "SOFTMAX_ELEMENTS", VOCAB * 4)
    net = made("tied")
    largest, head = 0, net.head
    hidden_BTD = torch.randn(4, 128, 8, dtype=torch.float64, requires_grad=True)

    def watching(hidden_ND):
        nonlocal largest
        alive = [
            t for t in gc.get_objects() if type(t) is torch.Tensor and t.ndim == 2 and t.shape[1] == VOCAB
        ]
        largest = max(largest, sum(len(t) for t in alive))
        return head(hidden_ND)

    monkeypatch.setattr(net, "head", watching)
    summed_cross_entropy(net, hidden_BTD, torch.ones(4, 128, dtype=torch.long)).backward()
    assert largest <= 1 and hidden_BTD.grad is not None  # when a chunk begins, none of the last one is left


def test_measuring_makes_no_gradient():
    """A graph would mean that an evaluation keeps what it does not need."""
    net = made("tied")
    hidden_BTD = torch.randn(2, 9, 8, dtype=torch.float64)
    targets_BT = torch.randint(0, VOCAB, (2, 9))
    with torch.no_grad():
        total = summed_cross_entropy(net, hidden_BTD, targets_BT)
        single = cross_entropies(net, hidden_BTD, targets_BT)
    assert not total.requires_grad
    torch.testing.assert_close(single.sum(), total.float(), rtol=1e-6, atol=0)


def test_rows_of_a_chunk_by_hand():
    """More would mean that a large vocabulary fills the memory again."""
    assert rows_of(49152) == 128  # 24 MiB of logits in float32
    assert rows_of(4096) == 2048 and rows_of(1 << 30) == 1
