"""The logit lens is what a shorter model would say, and its last row what the model says."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lmcraft.inspect.lens import lens, stream
from lmcraft.inspect.look import look

SOURCE, TARGET = "the dog sat", " on the cat"


def test_the_last_row_is_what_the_model_says(language_model, kind: str, settings: dict) -> None:
    """If this failed, the lens would read the hidden vectors in another way than the model's own head."""
    lm = language_model(kind, **settings)
    seen = look(lm, SOURCE, TARGET if lm.model.generates else None)
    if kind == "seq2seq":
        assert seen.lens is None
        return
    assert len(seen.lens.rows) == 4
    for one, guess in zip(seen.predictions, seen.lens.rows[-1], strict=True):
        assert guess.id == one.guesses[0].id
        assert guess.probability == pytest.approx(one.guesses[0].probability, rel=1e-4)


@pytest.mark.parametrize("kind,settings", [("decoder", {}), ("rnn", {}), ("rnn", {"residual": False})])
def test_a_row_is_what_a_model_with_fewer_blocks_says(language_model, kind: str, settings: dict) -> None:
    """If this failed, the rows would be shifted by a block, or skip the last norm."""
    lm = language_model(kind, **settings)
    seen = look(lm, SOURCE)
    ids = [piece.id for piece in seen.target]
    for blocks in (2, 1):
        if kind == "decoder":
            lm.model.blocks = lm.model.blocks[:blocks]
        else:
            lm.model.layers = lm.model.layers[:blocks]
            lm.model.norms = nn.ModuleList([*lm.model.norms[:blocks], lm.model.norms[-1]])
        probabilities = torch.softmax(lm.logits(ids), dim=-1).max(dim=-1)
        assert [guess.id for guess in seen.lens.rows[blocks]] == probabilities.indices.tolist()
        expected = pytest.approx(probabilities.values.tolist(), rel=1e-4)
        assert [guess.probability for guess in seen.lens.rows[blocks]] == expected


def test_there_is_no_lens_where_the_model_does_more(language_model) -> None:
    """If this failed, a model that changes its hidden vectors after the last norm would get a lens that lies."""
    model = language_model("decoder").model
    with torch.no_grad(), stream(model) as caught:
        hidden_TD = model(torch.tensor([[3, 4, 5]]))[0]
    layers = [layer_BTD[0] for layer_BTD in caught.layers]
    assert lens(model, caught, layers, hidden_TD) is not None
    assert lens(model, caught, layers, hidden_TD * 1.5) is None
