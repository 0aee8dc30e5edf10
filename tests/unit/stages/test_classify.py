"""Classification: which classes, where the target stands, what is cut, which head a base gets."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from lmcraft.core.errors import UserError
from lmcraft.data.batch import IGNORE
from lmcraft.data.records import Labeled, Text, Where
from lmcraft.models import decoder, encoder, heads, model
from lmcraft.stages import classify
from lmcraft.text.chat import ChatTemplate
from lmcraft.text.tokenizer import Tokenizer

ROWS = [
    Labeled(text, label, Where("data.jsonl", line))
    for line, (text, label) in enumerate(
        [("good and fine", "10"), ("bad <|endoftext|> bad", "9"), ("so so, but long " * 5, "10")], start=1
    )
]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    torch.set_num_threads(1)
    return Tokenizer.train([row.text for row in ROWS], 300)


def net(tokenizer, kind=encoder):
    torch.manual_seed(0)
    return model.build(kind.Config(vocab=tokenizer.size, layers=1, width=8, heads=1))


def ready(tokenizer, base=None, rows=ROWS, **settings):
    stage = classify.build(classify.Config(**settings))
    return stage, stage.ready(net(tokenizer) if base is None else base, rows, tokenizer)


def documents(stage, tokenizer, rows=ROWS, width=100):
    counts: Counter = Counter()
    made = list(stage.documents(rows, tokenizer, ChatTemplate.load("chatml", tokenizer), width, counts))
    return made, counts


def test_one_target_at_the_first_position(tokenizer):
    """A failure would mean that a text trains no class, or several."""
    stage, made = ready(tokenizer)
    assert made.config.labels == ("9", "10")  # by value, not by letter
    (first, second, third), _ = documents(stage, tokenizer)
    assert first.ids == [tokenizer.bos, *tokenizer.encode_plain("good and fine"), tokenizer.eos]
    assert first.labels == [1] + [IGNORE] * (len(first.ids) - 1)
    assert [second.labels[0], third.labels[0]] == [0, 1]
    assert list(second.ids).count(tokenizer.eos) == 2  # bos and eos are one token; the text's own is words


def test_long_texts_are_cut_or_dropped_and_counted(tokenizer):
    """A failure would mean that data vanishes unseen, or that a text lacks its last token (trap 8)."""
    stage, _ = ready(tokenizer)
    made, counts = documents(stage, tokenizer, width=12)
    assert counts["truncated"] >= 1 and all(len(d.ids) <= 12 and d.ids[-1] == tokenizer.eos for d in made)
    stage, _ = ready(tokenizer, overflow="drop")
    made, counts = documents(stage, tokenizer, width=12)
    assert len(made) == len(ROWS) - counts["dropped, too long"] < len(ROWS)


def test_a_class_that_only_held_out_records_have(tokenizer):
    """A failure would mean a target that the head does not have."""
    stage, _ = ready(tokenizer)
    made, counts = documents(stage, tokenizer, [*ROWS, Labeled("x", "11")])
    assert len(made) == 3 and counts["left out, a class that was not trained"] == 1


def test_a_base_keeps_its_head_for_the_same_classes(tokenizer):
    """A failure would mean that going on with a classifier begins at nothing."""
    _, first = ready(tokenizer)
    stage, second = ready(tokenizer, first, ROWS[:1])
    assert second is first and stage.labels == ("9", "10")
    _, third = ready(tokenizer, first, [Labeled("x", "a"), Labeled("y", "b")])
    assert third is not first and third.body is first.body and third.config.labels == ("a", "b")


def test_pooling_follows_the_base(tokenizer):
    """A failure would mean that a causal model is read where it has seen nothing, or that MiniLM's mean is lost."""
    assert ready(tokenizer)[1].config.pooling == "mean"
    assert ready(tokenizer, net(tokenizer, decoder))[1].config.pooling == "last"
    vectors = heads.around(net(tokenizer), task="embedding", pooling="cls")
    assert ready(tokenizer, vectors)[1].config.pooling == "cls"
    assert ready(tokenizer, vectors, pooling="mean")[1].config.pooling == "mean"


def test_what_cannot_be_trained_so(tokenizer):
    """A failure would mean a traceback, or a model that can only say one thing."""
    with pytest.raises(UserError, match="text records"):
        ready(tokenizer, rows=[Text("no class")])
    with pytest.raises(UserError, match="only one class: 10"):
        ready(tokenizer, rows=ROWS[:1])


def test_facts_name_the_classes(tokenizer):
    """If they did not, token shards made for other classes would be used again."""
    first, second = ready(tokenizer)[0], ready(tokenizer, rows=[*ROWS, Labeled("x", "8")])[0]
    assert first.facts != second.facts
