"""Reading: embeddings, classes, tags and masked words, the same alone and in company, and clear refusals."""

from __future__ import annotations

import pytest
import torch

from lmcraft.core.errors import UserError
from lmcraft.data import synthetic
from lmcraft.generate.language_model import LanguageModel
from lmcraft.generate.reading import Reader, framed
from lmcraft.models import decoder, encoder, heads, model
from lmcraft.text.special import MASK
from lmcraft.text.tokenizer import SPECIALS, Tokenizer

TEXTS = [record.text for record in synthetic.texts(9, seed=1)] + ["", "one", "<|endoftext|> is a word " * 9]
LABELS = ("O", "B-X", "I-X")


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    torch.set_num_threads(1)
    return Tokenizer.train(TEXTS, 300, (*SPECIALS, MASK))


def make(tokenizer, schema=encoder, **settings) -> LanguageModel:
    """A tiny model, with a head if `settings` name a task."""
    torch.manual_seed(0)
    net = model.build(
        schema.Config(vocab=tokenizer.size, context=32, layers=2, width=32, heads=2, dropout=0.2)
    )
    if settings:
        net = heads.around(net, **settings)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return LanguageModel(net, tokenizer, None)


@pytest.mark.parametrize(
    "schema,settings", [(encoder, {}), (decoder, {}), (encoder, {"task": "embedding", "pooling": "cls"})]
)
def test_embeddings_are_those_of_each_text_alone(tokenizer, schema, settings):
    """A difference would mean that a document's vector depends on what else was asked."""
    lm = make(tokenizer, schema, **settings)
    found_ND = lm.embed(TEXTS)
    assert found_ND.shape == (len(TEXTS), 32) and found_ND.dtype == torch.float32
    for text, vector in zip(TEXTS, found_ND, strict=True):
        torch.testing.assert_close(lm.embed([text])[0], vector, rtol=1e-4, atol=1e-5)
        ids = framed(tokenizer, tokenizer.encode_plain(text)[: 32 - 2])
        with torch.no_grad():
            hidden_BTD = lm.model.eval()(torch.tensor([ids]))
        own = hidden_BTD[0, 0] if settings else hidden_BTD[0].mean(dim=0)
        torch.testing.assert_close(vector, own, rtol=1e-4, atol=1e-5)
    assert lm.embed([]).shape == (0, 32)


def test_classes_are_the_likeliest(tokenizer):
    """A difference would mean that a label and its probability do not belong together."""
    lm = make(tokenizer, task="classes", labels=("a", "b", "c"))
    for text, answer in zip(TEXTS, lm.classify(TEXTS), strict=True):
        assert list(answer.probabilities) == ["a", "b", "c"]
        assert sum(answer.probabilities.values()) == pytest.approx(1, abs=1e-5)
        assert answer.probability == max(answer.probabilities.values()) == answer.probabilities[answer.label]
        assert lm.classify([text])[0].probability == pytest.approx(answer.probability, abs=1e-5)


def test_tags_of_words_of_any_length(tokenizer):
    """A failure would mean that the words after a long one, or after the model's end, have the wrong tags."""
    lm = make(tokenizer, task="tags", labels=LABELS)
    sentences = [text.split() for text in TEXTS] + [["a", "", "b" * 70, "c"]]
    found = lm.tag(sentences)
    for words, answer in zip(sentences, found, strict=True):
        assert answer.words == words and len(answer.tags) == len(answer.probabilities) == len(words)
        alone = lm.tag([words])[0]
        assert alone.tags == answer.tags
        assert alone.probabilities == pytest.approx(answer.probabilities, abs=1e-5)
    assert found[-1].tags[1] == "O" and found[-1].probabilities[1] == 1.0
    assert len({tag for answer in found for tag in answer.tags}) > 1
    short = sentences[0][:3]
    ids = tokenizer.encode_plain(" ".join(short))
    first = [0, *(len(tokenizer.encode_plain(" ".join(short[:n]))) for n in (1, 2))]
    with torch.no_grad():
        scores_TX = lm.model.head(lm.model.eval()(torch.tensor([framed(tokenizer, ids)])))[0]
    expected = [LABELS[int(scores_TX[1 + place].argmax())] for place in first]
    assert lm.tag([short])[0].tags == expected
    assert lm.tag([" ".join(short)])[0].tags == expected  # a text is cut into the same words


def test_a_mask_stands_where_a_word_stood(tokenizer):
    """A failure would mean that a space comes before the mask, as it never did in training: the words that fill it
    would be guesses about a text of another kind."""
    whole = next(w for w in " ".join(TEXTS).split() if len(tokenizer.encode(f" {w}")) == 1)
    word, masked = tokenizer.encode(f"The {whole} sees"), tokenizer.encode(f"The {MASK} sees")
    assert [(i, j) for i, j in zip(word, masked, strict=True) if i != j] == [
        (tokenizer.encode(f" {whole}")[0], tokenizer.mask)
    ]


def test_masked_words_are_filled(tokenizer):
    """A failure would mean that candidates belong to another position, or are not the likeliest."""
    lm = make(tokenizer)
    first, second = lm.fill("The [MASK] sees <mask> river", count=4)
    ids = framed(tokenizer, tokenizer.encode(f"The {MASK} sees {MASK} river"))
    places = [place for place, number in enumerate(ids) if number == tokenizer.mask]
    with torch.no_grad():
        logits_TV = lm.model.head(lm.model.eval()(torch.tensor([ids])))[0]
    for place, candidates in zip(places, (first, second), strict=True):
        top = logits_TV[place].softmax(dim=-1).topk(4)
        assert [c.token for c in candidates] == top.indices.tolist()
        assert [c.probability for c in candidates] == pytest.approx(top.values.tolist(), abs=1e-6)


def test_training_mode_is_put_back(tokenizer):
    """A failure would mean that a look at a model while it trains switches its dropout off."""
    lm = make(tokenizer, task="classes", labels=("a", "b"))
    for mode in (True, False):
        lm.model.train(mode)
        assert lm.classify(["x"]) == lm.classify(["x"])
        assert lm.model.training is mode


def test_what_a_model_does_not_do(tokenizer):
    """A failure would mean a traceback, or an answer that means nothing."""
    with pytest.raises(UserError, match="does not classify"):
        make(tokenizer).classify(["x"])
    with pytest.raises(UserError, match="does not tag"):
        make(tokenizer, task="embedding").tag(["x"])
    with pytest.raises(UserError, match="fills no masked words"):
        make(tokenizer, decoder).fill("a [MASK]")
    with pytest.raises(UserError, match="no word is masked"):
        make(tokenizer).fill("nothing missing")
    without = Tokenizer.train(TEXTS, 300)
    with pytest.raises(UserError, match="no mask token"):
        Reader(make(tokenizer).model, without).fill("a [MASK]")
    with pytest.raises(UserError, match="does not generate"):
        make(tokenizer).generate("x")
