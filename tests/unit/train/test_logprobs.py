"""Log-probabilities of single tokens in chunks, with gradients, against plain log-softmax in float64."""

from __future__ import annotations

import pytest
import torch

from lmcraft.adapt import entries, lora
from lmcraft.data.batch import IGNORE
from lmcraft.models import decoder
from lmcraft.models import model as models
from lmcraft.train import loss as losses
from lmcraft.train.logprobs import (
    answer_logprobs,
    next_targets,
    token_logprobs,
)

VOCAB = 29


def net(tied: bool, on_head: bool = False):
    """A tiny decoder in float64; `on_head` puts LoRA beside its head, over a frozen base."""
    torch.manual_seed(0)
    shape = decoder.Config(vocab=VOCAB, layers=1, width=16, heads=2, context=16, tied=tied)
    made = models.build(shape)
    if on_head:
        for parameter in made.parameters():
            parameter.requires_grad_(False)
        made = entries.apply(made, [lora.Config(targets=("head", "attn.q"))], entries.Base("", ""), None)
        for parameter in made.parameters():
            if parameter.requires_grad:
                torch.nn.init.normal_(parameter, std=0.3)
    return made.double()


def rows():
    draw = torch.Generator().manual_seed(1)
    tokens_BT = torch.randint(0, VOCAB, (3, 11), generator=draw)
    targets_BT = torch.randint(0, VOCAB, (3, 11), generator=draw)
    targets_BT[0, :4] = IGNORE
    targets_BT[2] = IGNORE
    weights_BT = torch.randn(3, 11, generator=draw, dtype=torch.float64)
    return tokens_BT, targets_BT, weights_BT


def plain(model, hidden_BTD, targets_BT, temperature):
    logs_BTV = (model.head(hidden_BTD) / temperature).log_softmax(dim=-1)
    taken_BT = logs_BTV.gather(2, targets_BT.clamp(min=0)[..., None])[..., 0]
    return taken_BT.masked_fill(targets_BT == IGNORE, 0)


@pytest.mark.parametrize("chunk", [1 << 23, VOCAB * 4, 1], ids=["one", "some", "a-row"])
@pytest.mark.parametrize(
    "tied,on_head", [(False, False), (True, False), (False, True), (True, True)],
    ids=["own-head", "tied", "lora", "tied-lora"],
)  # fmt: skip
def test_numbers_and_gradients_equal_a_plain_log_softmax(tied, on_head, chunk, monkeypatch):
    """A difference would mean that PPO and DPO climb another objective than the one they state."""
    monkeypatch.setattr(losses, "HEAD_ELEMENTS", chunk)
    model, (tokens_BT, targets_BT, weights_BT) = net(tied, on_head), rows()
    found = []
    for way in (token_logprobs, plain):
        model.zero_grad()
        hidden_BTD = model(tokens_BT)
        hidden_BTD.retain_grad()
        logs_BT = way(model, hidden_BTD, targets_BT, 0.7)
        (logs_BT * weights_BT).sum().backward()
        gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
        found.append([logs_BT, hidden_BTD.grad, *gradients])
    assert len(found[0]) == len(found[1]) > 4
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-13)


def test_no_target_at_all_gives_zeros():
    """A failure would mean that a micro-batch in which nothing is trained stops the training of the others."""
    model, (tokens_BT, targets_BT, _) = net(False), rows()
    logs_BT = token_logprobs(model, model(tokens_BT), torch.full_like(targets_BT, IGNORE))
    assert logs_BT.shape == targets_BT.shape and not logs_BT.any()
    logs_BT.sum().backward()


def test_without_gradients_the_numbers_are_the_same():
    """A difference would mean that a reference scored without gradients is no equal of the policy."""
    model, (tokens_BT, targets_BT, _) = net(True), rows()
    with torch.no_grad():
        still_BT = token_logprobs(model, model(tokens_BT), targets_BT)
    assert torch.equal(still_BT, token_logprobs(model, model(tokens_BT), targets_BT).detach())


def test_half_precision_is_summed_in_float32():
    """A failure would mean that the log-probability of an answer of 1000 tokens is off by whole nats."""
    model, (tokens_BT, targets_BT, _) = net(False).float(), rows()
    with torch.autocast("cpu", torch.bfloat16):
        hidden_BTD = model(tokens_BT)
        assert model.head(hidden_BTD).dtype == torch.bfloat16
        found_BT = token_logprobs(model, hidden_BTD, targets_BT)
        expected_BT = plain(model, hidden_BTD, targets_BT, 1.0)
    assert found_BT.dtype == torch.float32
    torch.testing.assert_close(found_BT.bfloat16(), expected_BT.bfloat16(), rtol=0.01, atol=0)
    found_BT.sum().backward()


def test_an_answer_is_the_sum_over_its_tokens():
    """A shift by one would train the token before the answer in the place of its last (trap 49: sums, not means)."""
    model, (tokens_BT, _, _) = net(False), rows()
    mask_BT = torch.zeros_like(tokens_BT, dtype=torch.bool)
    mask_BT[0, 5:8] = mask_BT[1, 0:2] = True
    hidden_BTD = model(tokens_BT)
    found_B = answer_logprobs(model, hidden_BTD, tokens_BT, mask_BT)
    logs_BTV = model.head(hidden_BTD).log_softmax(dim=-1)
    first = sum(logs_BTV[0, t - 1, tokens_BT[0, t]] for t in (5, 6, 7))
    torch.testing.assert_close(found_B[0], first)
    torch.testing.assert_close(found_B[1], logs_BTV[1, 0, tokens_BT[1, 1]])
    assert found_B[2] == 0
    assert (next_targets(tokens_BT, mask_BT) != IGNORE).sum() == 4
