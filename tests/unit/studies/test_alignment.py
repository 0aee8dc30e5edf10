"""Attention is compared with what each token stands for, in every kind of model that attends."""

from __future__ import annotations

import pytest
import torch

from lmcraft.data import number_words
from lmcraft.data.records import Parallel
from lmcraft.models import encdec, seq2seq
from lmcraft.studies import alignment, corpus, pairs

pytest.importorskip("num2words")
TOKENIZER = pairs.parts_tokenizer()


def line(*numbers: int) -> alignment.Aligned:
    pair = Parallel(number_words.line(numbers, "en"), number_words.line(numbers, "de"))
    return alignment.Aligned(pair, number_words.alignment(numbers))


def test_the_truth_is_that_of_the_tokens() -> None:
    """If this failed, perfect attention would get an error."""
    made = line(535)
    tokens = [
        [TOKENIZER.decode([i]).strip() for i in TOKENIZER.encode_plain(t)]
        for t in (made.pair.source, made.pair.target)
    ]
    assert tokens == [
        ["five", "hundred", "and", "thirty", "-five"],
        ["fünf", "hundert", "fünf", "und", "dreißig"],
    ]
    assert alignment.truth(TOKENIZER, made) == {0: {0}, 1: {1}, 2: {4}, 3: {4}, 4: {3}}


def test_perfect_attention_has_no_error_and_shifted_attention_has(monkeypatch) -> None:
    """If this failed, the study would call an alignment good that is not, or the other way round."""
    lm = corpus.fresh(encdec.Config(layers=1, width=8, heads=2), 0, TOKENIZER)
    lines = [line(535), line(21), line(742), line(99)]

    def attending(shift: int, share: float):
        def weights(lm, pair):
            true = alignment.truth(TOKENIZER, next(each for each in lines if each.pair == pair))
            weights_TS = torch.full((20, 20), (1 - share) / 19)
            for token, sources in true.items():
                weights_TS[token, (min(sources) + shift) % 20] = share
            return [torch.full((20, 20), 0.05), weights_TS]

        return weights

    for shift, error, mass in ((0, 0.0, 0.8), (1, 1.0, 0.2 / 19)):
        monkeypatch.setattr(alignment, "attention", attending(shift, 0.8))
        found = alignment.score(lm, lines)
        if shift == 0:
            assert found.layer == 1
        assert (found.error, found.mass) == (error, pytest.approx(mass, abs=1e-5)) or (
            shift and found.layer == 0
        )
        assert found.tokens == 5 + 3


@pytest.mark.parametrize(
    "shape",
    [
        encdec.Config(layers=2, width=8, heads=2),
        seq2seq.Config(layers=2, width=8, attention="additive"),
    ],
)
def test_weights_are_read_off_every_model_that_attends(shape) -> None:
    """If this failed, an alignment plot would be of something else than attention."""
    lm = corpus.fresh(shape, 0, TOKENIZER)
    made = line(535)
    layers = alignment.attention(lm, made.pair)
    assert len(layers) == (2 if shape.kind == "encdec" else 1)
    for weights_TS in layers:
        assert weights_TS.shape == (6, 6)  # with the end of the source, and of the target
        assert torch.allclose(weights_TS.sum(dim=1), torch.ones(6), atol=1e-5)
    assert all(getattr(module, "record", None) is None for module in lm.model.modules())
    again = alignment.attention(lm, made.pair)
    assert all(torch.equal(one, other) for one, other in zip(layers, again, strict=True))


def test_a_model_without_attention_has_no_alignment() -> None:
    """If this failed, the plain LSTM would end in a traceback."""
    lm = corpus.fresh(seq2seq.Config(layers=1, width=8, attention="none"), 0, TOKENIZER)
    assert alignment.score(lm, [line(21), line(22)]) is None
