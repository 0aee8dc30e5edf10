"""Tagging: first-subword targets, long sentences, words of nothing, unknown tags."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from lmcraft.core.errors import UserError
from lmcraft.data.batch import IGNORE
from lmcraft.data.records import Labeled, Tagged, Where
from lmcraft.models import encoder, model
from lmcraft.stages import tag
from lmcraft.text.chat import ChatTemplate
from lmcraft.text.tokenizer import Tokenizer

ROWS = [
    Tagged(("EU", "rejects", "German", "call"), ("B-ORG", "O", "B-MISC", "O"), Where("data.jsonl", 1)),
    Tagged(("Peter", "Blackburn"), ("B-PER", "I-PER"), Where("data.jsonl", 2)),
]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    torch.set_num_threads(1)
    return Tokenizer.train(["a b c"], 270)  # every word is several tokens


def ready(tokenizer, rows=ROWS):
    stage = tag.build(tag.Config())
    torch.manual_seed(0)
    base = model.build(encoder.Config(vocab=tokenizer.size, layers=1, width=8, heads=1))
    return stage, stage.ready(base, rows, tokenizer)


def documents(stage, tokenizer, rows=ROWS, width=100):
    counts: Counter = Counter()
    return list(
        stage.documents(rows, tokenizer, ChatTemplate.load("chatml", tokenizer), width, counts)
    ), counts


def test_the_first_token_of_a_word_has_its_tag(tokenizer):
    """A difference would mean that tags are trained at other tokens than they are read from."""
    stage, made = ready(tokenizer)
    assert made.config.labels[0] == "O" and made.config.labels[1:] == ("B-MISC", "B-ORG", "B-PER", "I-PER")
    document = documents(stage, tokenizer)[0][1]
    text = [tokenizer.decode([i], skip_special=False) for i in document.ids]
    targets = {place: stage.labels[label] for place, label in enumerate(document.labels) if label != IGNORE}
    assert targets == {1: "B-PER", 1 + len("Peter "): "I-PER"}  # here the space is a token of its own
    assert [text[place] for place in targets] == ["P", "B"]


def test_long_sentences_are_parted_between_words(tokenizer):
    """A failure would mean that the end of a long sentence is never trained, or trained at wrong places."""
    stage, _ = ready(tokenizer)
    made, counts = documents(stage, tokenizer, width=14)
    assert counts["split over rows"] > 0 and all(len(d.ids) <= 14 for d in made)
    found = [stage.labels[label] for d in made for label in d.labels if label != IGNORE]
    assert found == [t for row in ROWS for t in row.tags]
    assert all(d.ids[0] == tokenizer.bos and d.ids[-1] == tokenizer.eos for d in made)


def test_words_and_tags_without_a_target_are_counted(tokenizer):
    """A failure would mean that data vanishes unseen, or a target that the head does not have."""
    stage, _ = ready(tokenizer)
    rows = [Tagged(("a", "", "b"), ("O", "O", "B-NEW"))]
    (made,), counts = documents(stage, tokenizer, rows)
    assert counts["words without a token"] == 1 and counts["words with a tag that was not trained"] == 1
    assert sum(label != IGNORE for label in made.labels) == 1


def test_other_records_are_refused(tokenizer):
    """A failure would mean a traceback instead of the line that is wrong."""
    with pytest.raises(UserError, match="labeled records"):
        ready(tokenizer, [Labeled("x", "y")])
