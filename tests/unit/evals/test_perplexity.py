"""Perplexity: windows by hand, each token once, no influence of the batch, known answers."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lmcraft.core.errors import UserError
from lmcraft.data import synthetic
from lmcraft.data.records import Chat, Message, Text, Where
from lmcraft.evals import perplexity
from lmcraft.evals.perplexity import Config, _Document, _windows
from lmcraft.generate.language_model import LanguageModel
from lmcraft.models import decoder, model, rnn
from lmcraft.text.chat import ChatTemplate
from lmcraft.text.tokenizer import Tokenizer

CONTEXT = 24


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    torch.set_num_threads(1)
    return Tokenizer.train([record.text for record in synthetic.texts(30)], 300)


@pytest.fixture(scope="module")
def template(tokenizer) -> ChatTemplate:
    return ChatTemplate.load("chatml", tokenizer)


@pytest.fixture(params=["decoder", "lstm"])
def lm(request, tokenizer) -> LanguageModel:
    return LanguageModel(small(request.param, tokenizer.size), tokenizer, None)


def small(kind: str, vocab: int) -> torch.nn.Module:
    torch.manual_seed(0)
    size = {"vocab": vocab, "context": CONTEXT, "layers": 1, "width": 16, "dropout": 0.3}
    net = model.build(decoder.Config(heads=2, **size) if kind == "decoder" else rnn.Config(cell=kind, **size))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return net


class Uniform(torch.nn.Module):
    """A model that finds every token equally likely."""

    generates, reads_source = True, False

    def __init__(self, vocab: int) -> None:
        super().__init__()
        self.vocab, self.max_length = vocab, None
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, tokens_BT, segments_BT=None, memory=None):
        return torch.zeros(*tokens_BT.shape, 1)

    def head(self, hidden):
        return hidden.expand(*hidden.shape[:-1], self.vocab)


TEXTS = [Text("The cat sees the river. A bird likes an old song.", Where("t", 1)), Text("né €😀", Where("t", 2)),
         Text("A", Where("t", 3)), Text("", Where("t", 4)), *synthetic.texts(4, seed=9)]  # fmt: skip


def test_a_uniform_model_has_the_known_answer(tokenizer):
    """A difference would mean a wrong logarithm or a wrong divisor in every number that is published."""
    lm = LanguageModel(Uniform(tokenizer.size), tokenizer, None)
    result = perplexity.run(lm, TEXTS, Config())
    tokens = sum(len(tokenizer.encode(t.text)) for t in TEXTS)
    size, words = sum(len(t.text.encode()) for t in TEXTS), sum(len(t.text.split()) for t in TEXTS)
    assert (result.metrics["tokens"], result.metrics["bytes"], result.metrics["words"]) == (
        tokens,
        size,
        words,
    )
    assert result.metrics["token_perplexity"] == pytest.approx(tokenizer.size, rel=1e-6)
    assert result.metrics["bits_per_byte"] == pytest.approx(
        tokens * math.log2(tokenizer.size) / size, rel=1e-6
    )
    assert result.metrics["word_perplexity"] == pytest.approx(tokenizer.size ** (tokens / words), rel=1e-5)


def test_equals_the_engines_scores(lm):
    """A difference would mean that two of our own ways to score a text disagree."""
    texts = [text for text in TEXTS if len(lm.ids(text.text)) <= CONTEXT]
    result = perplexity.run(lm, texts, Config(window=CONTEXT, batch_size=3))
    scored = lm.engine.score([(lm.ids("")[:1], lm.tokenizer.encode(text.text)) for text in texts])
    for sample, score in zip(result.samples, scored, strict=True):
        assert sample["nll"] == pytest.approx(-score.logprob, abs=1e-4)
        assert sample["tokens"] == len(score.tokens)
    total = -sum(score.logprob for score in scored)
    assert result.metrics["token_perplexity"] == pytest.approx(
        math.exp(total / result.metrics["tokens"]), rel=1e-5
    )


@pytest.mark.parametrize("window,stride", [(8, 8), (8, 3), (CONTEXT, None), (2, 1), (None, None)])
def test_windows_and_strides_equal_a_plain_loop(lm, window, stride):
    """A difference would mean that long texts are scored with less context than the setting says (trap 50)."""
    ids = lm.ids(synthetic.texts(1, seed=3)[0].text)
    assert len(ids) > 2 * CONTEXT
    result = perplexity.run(lm, [synthetic.texts(1, seed=3)[0]], Config(window=window, stride=stride))
    window = window or CONTEXT if lm.model.max_length else window or 1024
    stride = stride or window // 2
    expected, scored = 0.0, 0
    start = 0
    with torch.no_grad():
        while scored < len(ids) - 1:
            stop = min(start + window, len(ids) - 1)
            logits_TV = lm.model.head(lm.model(torch.tensor([ids[start:stop]])))[0].double()
            for t in range(scored, stop):
                expected -= float(logits_TV[t - start].log_softmax(-1)[ids[t + 1]])
            scored, start = stop, start + stride
    assert result.samples[0]["nll"] == pytest.approx(expected, rel=1e-5)
    assert result.settings["window"] == window and result.settings["stride"] == stride


@given(
    st.lists(st.booleans(), min_size=1, max_size=60), st.integers(2, 20), st.integers(1, 20)
)  # fmt: skip
def test_every_token_is_scored_exactly_once(scored, window, stride):
    """A failure would mean that tokens at the edges of windows count twice or never."""
    stride = min(stride, window)
    document = _Document(list(range(len(scored))), scored, 0, 0, "")
    counted = [
        target + 1
        for w in _windows(0, document, window, stride)
        for target in range(w.first, w.stop)
        if scored[target + 1]
    ]
    assert sorted(counted) == [t for t in range(1, len(scored)) if scored[t]]
    for w in _windows(0, document, window, stride):
        assert 0 < w.stop - w.start <= window and w.start <= w.first < w.stop < len(scored)
        assert w.first - w.start >= min(w.first, window - stride)  # as much context as promised


@pytest.mark.parametrize("batch_size", [1, 2, 5, 64])
def test_the_batch_size_does_not_matter(lm, batch_size):
    """A difference would mean that numbers from two machines cannot be compared (trap 52)."""
    one = perplexity.run(lm, TEXTS, Config(window=16, stride=5, batch_size=16))
    other = perplexity.run(lm, TEXTS, Config(window=16, stride=5, batch_size=batch_size))
    for name, value in one.metrics.items():
        assert other.metrics[name] == pytest.approx(value, rel=1e-6), name
    assert [s["where"] for s in other.samples] == [str(t.where) for t in TEXTS]


def test_without_bos_the_first_token_is_not_scored():
    """A failure would mean that the first token is scored against nothing, or that its bytes count for free."""
    tokenizer = Tokenizer.train(["The cat sees the river."] * 5, 300, specials=("<|im_end|>",))
    assert tokenizer.bos is None
    lm = LanguageModel(Uniform(tokenizer.size), tokenizer, None)
    text = "The cat sees the river."
    ids = tokenizer.encode(text)
    result = perplexity.run(lm, [Text(text)], Config())
    assert result.metrics["tokens"] == len(ids) - 1
    assert result.metrics["bytes"] == len(text.encode()) - len(tokenizer.token_bytes(ids[0]))
    assert result.settings["first_token"] == "not scored"
    assert result.metrics["token_perplexity"] == pytest.approx(tokenizer.size)


CHAT = Chat(
    (Message("user", "What is 2 plus 3?"), Message("assistant", "it is 5"), Message("user", "thanks"),
     Message("assistant", "né bien")), Where("c", 1),
)  # fmt: skip


def test_of_a_conversation_the_answers_are_scored(tokenizer, template):
    """A failure would mean that questions, which the model need not predict, are part of the measure."""
    lm = LanguageModel(Uniform(tokenizer.size), tokenizer, template)
    result = perplexity.run(lm, [CHAT], Config())
    answers = ["it is 5", "né bien"]
    tokens = sum(len(tokenizer.encode(answer)) + 1 for answer in answers)
    assert result.metrics["tokens"] == tokens
    assert result.metrics["bytes"] == sum(len(a.encode()) for a in answers) and result.metrics["words"] == 5
    assert result.metrics["token_perplexity"] == pytest.approx(tokenizer.size)
    assert result.settings["scored"] == "answers"


def test_answers_are_given_all_that_was_said_before(tokenizer, template):
    """A difference would mean that training and evaluation read conversations differently (trap 11)."""
    net = small("lstm", tokenizer.size)
    lm = LanguageModel(net, tokenizer, template)
    result = perplexity.run(lm, [CHAT], Config())
    expected = 0.0
    for n in (1, 3):
        prompt = template.prompt(CHAT.messages[:n])
        answer = [*tokenizer.encode(CHAT.messages[n].content), tokenizer.end_of_turn]
        expected -= lm.engine.score([(prompt, answer)])[0].logprob
    assert result.samples[0]["nll"] == pytest.approx(expected, rel=1e-4)


def test_dropout_is_off():
    """A failure would mean that the same model gets another number each time."""
    tokenizer = Tokenizer.train(["abc"], 300)
    lm = LanguageModel(small("decoder", tokenizer.size).train(), tokenizer, None)
    first, second = (perplexity.run(lm, TEXTS[:2], Config()).metrics for _ in range(2))
    assert first == second


@pytest.mark.parametrize(
    "records,settings,what",
    [
        ([Text("")], {}, "nothing to score"),
        ([], {}, "nothing to score"),
        (TEXTS, {"window": CONTEXT + 1}, "longer than the 24 tokens"),
        (TEXTS, {"window": 4, "stride": 5}, "larger than window"),
        ([CHAT], {}, "no template"),
    ],
)
def test_mistakes_are_told(records, settings, what, tokenizer):
    """A failure would mean a traceback, or a number for something that cannot be measured."""
    lm = LanguageModel(small("decoder", tokenizer.size), tokenizer, None)
    with pytest.raises(UserError, match=what):
        perplexity.run(lm, records, Config(**settings))


def test_only_texts_and_conversations(tokenizer):
    """A failure would mean that other records crash far from the cause."""
    from lmcraft.data.records import Labeled

    lm = LanguageModel(small("decoder", tokenizer.size), tokenizer, None)
    with pytest.raises(UserError, match="texts or conversations"):
        perplexity.run(lm, [Labeled("good", "yes")], Config())
