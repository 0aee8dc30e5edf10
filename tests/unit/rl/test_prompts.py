"""Prompts from records: what is asked, in the ids that generation would read, with room for an answer."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from lmcraft.core.errors import UserError
from lmcraft.data import synthetic
from lmcraft.data.batch import IGNORE
from lmcraft.data.records import Chat, Labeled, Message, Pair, Parallel, Prompt, Rated, Text, Where, parts
from lmcraft.generate.language_model import LanguageModel
from lmcraft.models import decoder, encdec
from lmcraft.models import model as models
from lmcraft.rl import prompts
from lmcraft.text.chat import ChatTemplate
from lmcraft.text.tokenizer import Tokenizer

WHERE = Where("file", 3)
USER, SAID = Message("user", "What is up?"), Message("assistant", "The sky.")
RULES, MORE = Message("system", "Be kind."), Message("user", "And down?")


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    torch.set_num_threads(1)
    return Tokenizer.train([text for r in synthetic.texts(30, seed=1) for _, text in parts(r)], 300)


def net(schema=decoder):
    return models.build(schema.Config(vocab=300, layers=1, width=16, heads=2, context=32))


def ids(tokenizer, *records, template=None, room=99, begin=8, model=None):
    counts: Counter = Counter()
    found = prompts.documents(model or net(), records, tokenizer, template, room, begin, counts)
    return [*found], counts


RECORDS = [
    (Prompt((RULES, USER), None, WHERE), (RULES, USER), "What is up?"),
    (Pair((USER,), (SAID,), (SAID,), WHERE), (USER,), "What is up?"),
    (Chat((RULES, USER, SAID, MORE, SAID), WHERE), (RULES, USER), "What is up?"),
    (Text("Once upon", WHERE), "Once upon", "Once upon"),
    (Parallel("hin", "her", WHERE), "hin", "hin"),
]


def test_every_kind_of_record_has_a_prompt():
    """A failure would mean that a policy is shown the answer, or not the whole question."""
    for record, asked, question in RECORDS:
        assert prompts.messages(record) == asked and prompts.question(record) == question


def test_records_that_ask_nothing_are_refused():
    """A failure would mean a traceback where a sentence helps."""
    with pytest.raises(UserError, match="labeled records ask nothing"):
        prompts.messages(Labeled("words", "sort", WHERE))


def test_a_conversation_is_framed_as_for_generation(tokenizer):
    """Other ids than those of generation would mean that the policy learns for prompts that it never sees."""
    template = ChatTemplate.load("chatml", tokenizer)
    (found,), counts = ids(tokenizer, Prompt((RULES, USER), None, WHERE), template=template)
    assert found.ids == template.prompt((RULES, USER)) and not counts
    assert found.labels == [0] + [IGNORE] * (len(found.ids) - 1) and found.where == WHERE


def test_without_a_template_the_words_are_the_prompt(tokenizer):
    """A failure would mean that models which know no conversation cannot be trained on prompts."""
    (found,), _ = ids(tokenizer, Prompt((RULES, USER), None, WHERE))
    assert found.ids == [*tokenizer.beginning, *tokenizer.encode_plain("Be kind.\nWhat is up?")]


def test_a_text_is_begun(tokenizer):
    """A failure would mean that there is nothing left to continue."""
    text = "the cat sat on the mat and looked at the moon"
    (found,), _ = ids(tokenizer, Text(text, WHERE), begin=3)
    assert found.ids == [*tokenizer.beginning, *tokenizer.encode_plain(text)[:3]]


def test_a_model_that_reads_a_source_reads_the_prompt(tokenizer):
    """A failure would mean that an encoder-decoder is asked nothing."""
    (found,), _ = ids(tokenizer, Parallel("the cat", "", WHERE), model=net(encdec))
    assert tokenizer.decode(found.source) == "the cat" and len(found.ids) == 1 and found.labels == [0]


def test_a_conversation_can_be_a_source(tokenizer):
    """A failure would mean that a source is framed twice, or otherwise than when the model is asked."""
    model = net(encdec)
    (found,), _ = ids(tokenizer, Prompt((RULES, USER), None, WHERE), model=model, room=99)
    assert found.source == LanguageModel(model, tokenizer, None).ids("Be kind.\nWhat is up?")


def test_sampling_and_training_read_the_same(tokenizer):
    """A difference would mean that votes are about answers to another prompt than the policy learns for."""
    said = Message("user", "a <|im_end|> in the middle")
    (found,), _ = ids(tokenizer, Prompt((said,), None, WHERE))
    assert found.ids == LanguageModel(net(), tokenizer, None).asked((said,))
    assert tokenizer.special_ids.isdisjoint(found.ids[len(tokenizer.beginning) :])


def test_a_prompt_without_room_is_left_out_and_counted(tokenizer):
    """A failure would mean that generation stops in the middle of a run, or that prompts vanish unseen."""
    short, long = Text("cat", WHERE), Text("the cat sat on the mat", WHERE)
    size = len(tokenizer.beginning) + len(tokenizer.encode_plain("cat"))
    found, counts = ids(tokenizer, short, long, room=size)
    assert len(found) == 1 and counts == {"dropped, no room for an answer": 1}
    found, counts = ids(tokenizer, Parallel("the cat sat", "", WHERE), room=1, model=net(encdec))
    assert not found and counts == {"dropped, no room for an answer": 1}


def test_answers_that_were_rated_are_prompts_too():
    """A failure would mean that ratings cannot be used a second time."""
    names = Rated.__dataclass_fields__
    values = {"prompt": (USER,), "where": WHERE}
    record = Rated(**{name: values.get(name, ()) for name in names})
    assert prompts.messages(record) == (USER,)
