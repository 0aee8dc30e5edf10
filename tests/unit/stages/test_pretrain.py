"""Pre-training documents: bos + text + eos, everything a target, nothing lost."""

from __future__ import annotations

from collections import Counter

import pytest

from lmcraft.core.errors import UserError
from lmcraft.data import synthetic
from lmcraft.data.records import Chat, Labeled, Message, Text, Where
from lmcraft.stages import pretrain
from lmcraft.text.chat import ChatTemplate
from lmcraft.text.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train([record.text for record in synthetic.texts(30)], 300)


def documents(tokenizer, records, width=64):
    stage, counts = pretrain.build(pretrain.Config()), Counter()
    template = ChatTemplate.load("chatml", tokenizer)
    return list(stage.documents(records, tokenizer, template, width, counts)), counts


def test_one_bos_one_eos_everything_trained(tokenizer):
    """A failure would mean that the model never learns where texts begin or end, or sees bos twice (trap 5)."""
    records = synthetic.texts(5)
    made, _ = documents(tokenizer, records)
    for document, record in zip(made, records, strict=True):
        assert document.ids == [tokenizer.bos, *tokenizer.encode(record.text), tokenizer.eos]
        assert document.trained is None and document.where == record.where


def test_a_tokenizer_without_bos_and_eos():
    """A failure would mean that such public tokenizers crash, or get a None among their ids."""
    bare = Tokenizer.train(["some text"] * 3, 300, specials=("<|im_end|>",))
    assert bare.bos is None and bare.eos is None
    made, _ = documents(bare, [Text("some text")])
    assert made[0].ids == bare.encode("some text")


def test_names_of_special_tokens_are_words(tokenizer):
    """A failure would mean that a book about chat models ends turns in the middle of a sentence."""
    text = "it writes <|im_end|> and <|endoftext|> when it is done"
    made, _ = documents(tokenizer, [Text(text), Text("plain")])
    inner = made[0].ids[1:-1]
    assert not set(inner) & set(tokenizer.special_ids)
    assert tokenizer.decode(inner) == text


def test_conversations_are_plain_transcripts(tokenizer):
    """A failure would mean that a base model learns chat markers that it should not know."""
    chat = Chat((Message("user", "hello"), Message("assistant", "good day")), Where("c.jsonl", 4))
    made, _ = documents(tokenizer, [chat])
    assert tokenizer.decode(made[0].ids, skip_special=True) == "hello\ngood day"
    assert set(made[0].ids) & set(tokenizer.special_ids) == {tokenizer.bos, tokenizer.eos}


def test_long_texts_are_counted_not_cut(tokenizer):
    """A failure would mean that text is lost without a word."""
    records = [Text("word " * 100), Text("short")]
    made, counts = documents(tokenizer, records, width=16)
    assert counts["split over rows"] == 1
    assert tokenizer.decode(made[0].ids, skip_special=True) == "word " * 100


def test_all_of_a_large_set_in_order(tokenizer):
    """A failure would mean that texts at the borders of chunks are lost."""
    records = [Text(f"text number {n}", Where("x", n)) for n in range(2 * pretrain.CHUNK + 7)]
    made, _ = documents(tokenizer, records)
    assert [document.where.line for document in made] == list(range(len(records)))


def test_other_records_are_refused(tokenizer):
    """A failure would mean that labels are trained as text."""
    with pytest.raises(UserError, match="labeled") as caught:
        documents(tokenizer, [Labeled("text", "yes", Where("l.csv", 3))])
    assert caught.value.where == "l.csv:3"
