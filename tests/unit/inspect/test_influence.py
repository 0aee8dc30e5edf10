"""Influence is the length of the gradient, and looks at nothing that a model could not have seen."""

from __future__ import annotations

import torch

from lmcraft.inspect.influence import influence
from lmcraft.inspect.record import CROSS, SELF
from lmcraft.layers.source import Source

IDS = [5, 9, 30, 70, 2]


def test_it_is_the_gradient_of_the_embedded_tokens(language_model) -> None:
    """If this failed, the picture would tell of something else than what the prediction depends on."""
    model = language_model("rnn", tied=False).model
    [found] = influence(model, torch.tensor([IDS]), None, [*IDS[1:], None])
    logprobs_TV = torch.log_softmax(model.head(model(torch.tensor([IDS])))[0], dim=-1)
    targets = [*IDS[1:], int(logprobs_TV[-1].argmax())]
    for t, target in enumerate(targets):
        # every id occurs once, so a row of the embedding is a position
        [rows_VD] = torch.autograd.grad(logprobs_TV[t, target], [model.embedding.weight], retain_graph=True)
        expected = rows_VD[IDS].norm(dim=-1)
        torch.testing.assert_close(found.weights_HTM[0, t], expected / expected.sum())
        assert found.weights_HTM[0, t, t + 1 :].count_nonzero() == 0
    assert all(parameter.grad is None for parameter in model.parameters())


def test_source_and_target_share_what_there_is(language_model) -> None:
    """If this failed, rows of the alignment could not be compared with each other."""
    model = language_model("encdec").model
    tokens_BT, source = torch.tensor([IDS]), Source.of(torch.tensor([[7, 8, 9]]))
    found = {one.side: one.weights_HTM for one in influence(model, tokens_BT, source, IDS)}
    assert found[SELF].shape == (1, 5, 5) and found[CROSS].shape == (1, 5, 3)
    assert found[CROSS].count_nonzero() == 15
    torch.testing.assert_close(found[SELF].sum(dim=-1) + found[CROSS].sum(dim=-1), torch.ones(1, 5))
