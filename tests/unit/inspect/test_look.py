"""The numbers of an inspection equal those of the Engine and of plain tensors."""

from __future__ import annotations

import math

import pytest
import torch

from lmcraft.core.errors import UserError
from lmcraft.inspect.look import MAX_TOKENS, ask, look
from lmcraft.layers.source import Source

SOURCE, TARGET = "the dog sat", " on the cat"


def test_losses_are_those_of_the_engine(language_model, kind: str, settings: dict) -> None:
    """If this failed, the page would tell another perplexity than the evaluations do."""
    lm = language_model(kind, **settings)
    if not lm.model.generates:
        return  # tests/unit/inspect/test_masked.py
    seen = look(lm, SOURCE, TARGET)
    if lm.model.reads_source:
        ids = [lm.start_id, *lm.tokenizer.encode_plain(TARGET), lm.tokenizer.eos]
        score = lm.engine.score([(ids[:1], ids[1:])], sources=[lm.ids(SOURCE)])[0]
    else:
        score = lm.score(SOURCE, TARGET)
    assert seen.target_total.nats == pytest.approx(-score.logprob, rel=1e-5)
    assert seen.target_total.tokens == len(score.tokens)
    assert seen.target_total.perplexity == pytest.approx(
        math.exp(-score.logprob / len(score.tokens)), rel=1e-5
    )
    losses = [one.loss for one in seen.predictions if one.loss is not None][-len(score.tokens) :]
    assert losses == pytest.approx([-value for value in score.tokens], abs=1e-5)


def test_attention_or_influence_is_a_distribution(language_model, kind: str, settings: dict) -> None:
    """If this failed, colours of two rows of a picture could not be compared."""
    lm = language_model(kind, **settings)
    seen = look(lm, SOURCE, TARGET if lm.model.generates else None)
    assert seen.gradient == (kind == "rnn" or settings.get("attention") == "none")
    sums = [one.weights_HTM.sum(dim=-1) for one in seen.maps]
    if seen.gradient:
        sums = [sum(sums)]
    assert sums
    for sum_HT in sums:
        torch.testing.assert_close(sum_HT, torch.ones_like(sum_HT))
    sides = {one.side for one in seen.maps}
    assert ("cross" in sides) == lm.model.reads_source


def test_likeliest_tokens_and_ranks_are_those_of_the_logits(language_model) -> None:
    """If this failed, the table would name tokens that the model did not choose."""
    lm = language_model("decoder")
    seen = look(lm, SOURCE, top=4)
    ids = [piece.id for piece in seen.target]
    logits_TV = lm.logits(ids)
    assert ids == lm.ids(SOURCE) and len(seen.predictions) == len(ids) == seen.read
    for t, one in enumerate(seen.predictions):
        order = sorted(range(logits_TV.shape[1]), key=lambda v: -float(logits_TV[t, v]))
        assert [guess.id for guess in one.guesses] == order[:4]
        probabilities = torch.softmax(logits_TV[t].double(), dim=0)
        assert one.guesses[0].probability == pytest.approx(float(probabilities[order[0]]), rel=1e-5)
        assert one.entropy == pytest.approx(float(-(probabilities * probabilities.log()).sum()), rel=1e-4)
        if t + 1 < len(ids):
            assert (one.actual, one.rank) == (ids[t + 1], order.index(ids[t + 1]) + 1)
            assert one.bits == pytest.approx(-math.log2(float(probabilities[ids[t + 1]])), rel=1e-4)
        else:
            assert one.actual is None and one.loss is None and one.rank is None


def test_without_a_target_a_model_with_a_source_writes_its_own(language_model) -> None:
    """If this failed, the alignment would be of a text that the model would not have written."""
    lm = language_model("encdec")
    seen = look(lm, SOURCE, max_new_tokens=6)
    written = lm.generate(SOURCE, temperature=0.0, max_new_tokens=6).tokens
    assert [piece.id for piece in seen.target] == [lm.start_id, *written]
    assert (
        all(one.rank == 1 for one in seen.predictions) and len(seen.predictions) == len(written) == seen.read
    )
    assert "writes by itself" in seen.notes[0]


def test_long_texts_are_cut_and_it_is_told(language_model) -> None:
    """If this failed, a long text would end in a crash of the model or a page that no browser opens."""
    lm = language_model("decoder", context=20)
    seen = look(lm, "the cat sat " * 30)
    assert seen.read == 20 and "the model reads no more" in seen.notes[0]
    lstm = language_model("rnn")
    asked = ask(lstm, "the cat sat " * 300, None, chat=False, max_new_tokens=1)
    assert asked.read == MAX_TOKENS and "a page shows no more" in asked.notes[0]
    encdec = language_model("encdec", positions="learned", context=10)
    seen = look(encdec, "the cat sat " * 30, "the dog sat " * 30)
    assert (len(seen.source), seen.read, len(seen.notes)) == (10, 10, 2)


def test_nothing_to_read_is_told(language_model) -> None:
    """If this failed, an empty text would end in a traceback."""
    lm = language_model("decoder")
    lm.tokenizer.bos, before = None, lm.tokenizer.bos
    try:
        with pytest.raises(UserError, match="nothing to read"):
            look(lm, "")
    finally:
        lm.tokenizer.bos = before


def test_looking_changes_nothing(language_model) -> None:
    """If this failed, a model that was looked at would answer differently, or be out of training mode."""
    lm = language_model("encdec", dropout=0.5)
    lm.model.train()
    source = Source.of(torch.tensor([[5, 6, 7]]))
    look(lm, SOURCE, TARGET)
    assert lm.model.training and all(not module._forward_hooks for module in lm.model.modules())
    assert all(not module._forward_pre_hooks for module in lm.model.modules())
    lm.model.eval()
    first = lm.model(torch.tensor([[1, 2]]), source=source)
    look(lm, SOURCE, TARGET)
    assert torch.equal(first, lm.model(torch.tensor([[1, 2]]), source=source))
