"""A model that fills masks is asked for every token with that token masked."""

from __future__ import annotations

import pytest
import torch

from lmcraft.core.errors import UserError
from lmcraft.inspect.look import look
from lmcraft.models.heads import around


def test_each_token_is_predicted_from_all_others(language_model) -> None:
    """If this failed, the model would see the token that it is asked for, and every loss would look like nothing."""
    lm = language_model("encoder")
    mask = lm.tokenizer.mask
    text = "the zebra sat on the mat by the zebra"
    seen = look(lm, text, top=3)
    ids = [lm.tokenizer.bos, *lm.tokenizer.encode(text), lm.tokenizer.eos]
    assert [piece.id for piece in seen.target] == ids and len(ids) > 16 and seen.masked
    assert seen.predictions[0].loss is None and seen.predictions[-1].loss is None  # what frames the text
    for place in range(1, len(ids) - 1):
        masked = [*ids[:place], mask, *ids[place + 1 :]]
        logprobs_V = torch.log_softmax(lm.logits(masked)[place], dim=-1)
        one = seen.predictions[place]
        assert one.actual == ids[place] and one.loss == pytest.approx(
            -float(logprobs_V[ids[place]]), abs=1e-4
        )
        assert one.guesses[0].id == int(logprobs_V.argmax())
    assert seen.total.tokens == len(ids) - 2
    assert all(len(row) == len(ids) for row in seen.lens.rows)


def test_a_mask_in_the_text_is_filled(language_model) -> None:
    """If this failed, one could not ask what stands in a gap."""
    lm = language_model("encoder")
    seen = look(lm, "the [MASK] sat")
    [place] = [place for place, piece in enumerate(seen.target) if piece.id == lm.tokenizer.mask]
    assert seen.predictions[place].actual is None
    expected = lm.logits([piece.id for piece in seen.target])[place]
    assert seen.predictions[place].guesses[0].id == int(expected.argmax())


def test_what_a_reader_cannot_do_is_told(language_model) -> None:
    """If this failed, a continuation would be scored by a model that has none."""
    lm = language_model("encoder")
    with pytest.raises(UserError, match="as a whole"):
        look(lm, "the cat", "sat")


def test_classes_are_told(language_model) -> None:
    """If this failed, a classifier could be looked into without seeing what it says."""
    lm = language_model("encoder")
    lm.model = around(lm.model, labels=("ham", "spam")).eval()
    seen = look(lm, "the cat sat")
    assert seen.predictions is None and seen.lens is None and len(seen.maps) == 3
    ids = torch.tensor([[piece.id for piece in seen.target]])
    with torch.no_grad():
        share = float(torch.softmax(lm.model.head(lm.model(ids))[0, 0], dim=-1).max())
    assert f"{100 * share:.1f} %" in seen.notes[-1] and "spam" in seen.notes[-1]
