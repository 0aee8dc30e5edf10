"""Translation: what is read, what is written, what is trained, and what is refused."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch

from lmcraft.core.errors import UserError
from lmcraft.data.loader import Loader
from lmcraft.data.records import Parallel, Text, Where
from lmcraft.data.tokens import write
from lmcraft.generate.language_model import LanguageModel
from lmcraft.models import decoder, encdec, model
from lmcraft.stages import translate
from lmcraft.text.chat import ChatTemplate
from lmcraft.text.tokenizer import Tokenizer

PAIRS = [
    Parallel("one two", "zwei eins", Where("pairs.jsonl", 1)),
    Parallel("a longer sentence than the first one", "ein Satz", Where("pairs.jsonl", 2)),
    Parallel("the text <|endoftext|> is a word", "ok", Where("pairs.jsonl", 3)),
]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train([text for pair in PAIRS for text in (pair.source, pair.target)], 300)


def documents(tokenizer, width=64, counts=None, **settings):
    stage = translate.build(translate.Config(**settings))
    template = ChatTemplate.load("chatml", tokenizer)
    counts = Counter() if counts is None else counts
    return list(stage.documents(PAIRS, tokenizer, template, width, counts))


def test_source_ends_with_eos_and_target_stands_between_bos_and_eos(tokenizer):
    """A failure would mean a model that never learns where to begin or to stop (trap 27)."""
    document = documents(tokenizer)[0]
    assert document.source == [*tokenizer.encode_plain("one two"), tokenizer.eos]
    assert document.ids == [tokenizer.bos, *tokenizer.encode_plain("zwei eins"), tokenizer.eos]
    assert document.trained == [False] + [True] * (len(document.ids) - 1)


def test_special_tokens_in_a_text_are_words(tokenizer):
    """A failure would mean that a sentence about a token ends the sentence."""
    assert documents(tokenizer)[2].source.count(tokenizer.eos) == 1


def test_long_pairs_are_cut_or_dropped_and_counted(tokenizer):
    """A failure would mean that data vanishes unseen (trap 8)."""
    counts = Counter()
    cut = documents(tokenizer, 8, counts)
    assert len(cut) == 3 and all(len(d.source) <= 8 and len(d.ids) <= 9 for d in cut)
    assert counts["truncated"] == sum(len(d.source) > 8 or len(d.ids) > 9 for d in documents(tokenizer)) > 0
    counts.clear()
    assert len(documents(tokenizer, 8, counts, overflow="drop")) == 3 - counts["dropped, too long"] < 3


def test_other_records_are_refused(tokenizer):
    """A failure would mean a traceback, or training on nothing."""
    stage = translate.build(translate.Config())
    template = ChatTemplate.load("chatml", tokenizer)
    with pytest.raises(UserError, match=r"needs pairs(.|\n)*x.txt:3"):
        list(stage.documents([Text("a", Where("x.txt", 3))], tokenizer, template, 8, Counter()))


def test_a_model_without_a_source_is_refused(tokenizer):
    """A failure would mean a crash in the first step."""
    net = model.build(decoder.Config(vocab=300, layers=1, width=16, heads=2))
    with pytest.raises(UserError, match="reads no source"):
        translate.build(translate.Config()).ready(net, PAIRS, tokenizer)


def test_targets_begin_with_the_models_own_start(tokenizer):
    """A failure would mean that a public model is tuned on targets that it never saw beginning so (trap 27)."""
    net = model.build(encdec.Config(vocab=300, layers=1, width=16, heads=2, start_id=7))
    stage = translate.build(translate.Config())
    stage.ready(net, PAIRS, tokenizer)
    template = ChatTemplate.load("chatml", tokenizer)
    assert {d.ids[0] for d in stage.documents(PAIRS, tokenizer, template, 64, Counter())} == {7}
    assert stage.facts == {"first": 7, "before": ()}


def test_sources_begin_as_the_model_was_trained_to_read(tokenizer):
    """A failure would mean that a public BART is tuned on, and asked with, sources that it never saw beginning so."""
    size = {"vocab": tokenizer.size, "layers": 1, "width": 16, "heads": 2}
    net = model.build(encdec.Config(**size, source_bos=True))
    stage = translate.build(translate.Config())
    stage.ready(net, PAIRS, tokenizer)
    template = ChatTemplate.load("chatml", tokenizer)
    document = next(iter(stage.documents(PAIRS, tokenizer, template, 64, Counter())))
    assert document.source == LanguageModel(net, tokenizer, None).ids("one two")
    assert document.source == [tokenizer.bos, *tokenizer.encode_plain("one two"), tokenizer.eos]


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_smoothing_acts_in_training_only(tokenizer, tmp_path, smoothing):
    """A failure would mean that held-out losses cannot be compared with other runs'."""
    torch.manual_seed(0)
    net = model.build(encdec.Config(vocab=tokenizer.size, layers=1, width=16, heads=2)).double()
    shard = write(tmp_path / "shard", documents(tokenizer), tokenizer.size, {}, Counter())
    batch = Loader(shard, 64, 3, seed=0, pack=False).next()
    stage = translate.build(translate.Config(smoothing=smoothing))
    with torch.no_grad():
        logits_BTV = net.head(net(batch.tokens_BT, batch.segments_BT, source=batch.source))
        losses = {mode: float(stage.loss(net.train(mode), batch)) for mode in (True, False)}
    for mode, loss in losses.items():
        expected = torch.nn.functional.cross_entropy(
            logits_BTV.flatten(0, 1), batch.targets_BT.flatten(), reduction="sum",
            label_smoothing=smoothing if mode else 0.0,
        )  # fmt: skip
        assert math.isclose(loss, float(expected), rel_tol=1e-9)
