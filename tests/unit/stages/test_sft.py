"""Fine-tuning documents: the assistant's words and their end are trained, nothing else, and long ones are counted."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest

from lmcraft.core.errors import UserError
from lmcraft.data import synthetic
from lmcraft.data.records import Chat, Message, Text, Where
from lmcraft.stages import sft
from lmcraft.text.chat import ChatTemplate
from lmcraft.text.tokenizer import Tokenizer

LINES = [m.content for chat in synthetic.conversations(60) for m in chat.messages]


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train(LINES, 320)


@pytest.fixture(scope="module", params=["chatml", "plain"])
def template(request, tokenizer):
    return ChatTemplate.load(request.param, tokenizer)


def documents(tokenizer, template, records, width=10_000, **settings):
    stage, counts = sft.build(sft.Config(**settings)), Counter()
    return list(stage.documents(records, tokenizer, template, width, counts)), counts


def chat(*said: str, system: str | None = None, line: int = 1) -> Chat:
    messages = [Message("user" if n % 2 == 0 else "assistant", text) for n, text in enumerate(said)]
    return Chat((*([Message("system", system)] if system else []), *messages), Where("c.jsonl", line))


def trained_parts(tokenizer, document) -> list[str]:
    """The trained ids as texts, one a stretch."""
    stretches: list[list[int]] = []
    trained = document.trained or [True] * len(document.ids)
    for place, (number, mask) in enumerate(zip(document.ids, trained, strict=True)):
        if mask:
            if place == 0 or not trained[place - 1]:
                stretches.append([])
            stretches[-1].append(number)
    return [tokenizer.decode(stretch, skip_special=True) for stretch in stretches]


def test_only_answers_and_their_end_are_trained(tokenizer, template):
    """A failure would mean that prompts are learned (trap 9), or that the model never learns to stop (traps 3, 4)."""
    made, _ = documents(
        tokenizer, template, [chat("2 plus 2?", "it is 4", "and 1?", "it is 1", system="be kind")]
    )
    (document,) = made
    assert [part.strip() for part in trained_parts(tokenizer, document)] == ["it is 4", "it is 1"]
    ends = [
        n
        for n, (i, t) in enumerate(zip(document.ids, document.trained, strict=True))
        if t and i in template.stop_ids
    ]
    assert len(ends) == 2


def test_what_is_trained_follows_what_generation_is_given(tokenizer, template):
    """A failure would mean that a chat continues another text than the one that was trained (trap 11)."""
    talk = chat("2 plus 2?", "it is 4", "and 1?", "it is 1")
    (document,), _ = documents(tokenizer, template, [talk])
    for turn in (1, 3):
        prompt = template.prompt(talk.messages[:turn])
        assert document.ids[: len(prompt)] == prompt
        assert not document.trained[len(prompt) - 1] and document.trained[len(prompt)]


def test_train_on_all_trains_all(tokenizer, template):
    """A failure would mean that the option does nothing."""
    (document,), _ = documents(tokenizer, template, [chat("hi", "hello")], train_on="all")
    assert document.trained is None


def long_chat(exchanges: int = 6, **settings) -> Chat:
    return chat(*(f"{kind} {n}" for n in range(exchanges) for kind in ("question", "answer")), **settings)


@pytest.mark.parametrize("system", [None, "be kind"])
@pytest.mark.parametrize("room", [1.0, 1.6, 2.1, 3.5, 9.0])
def test_long_conversations_are_split_at_user_turns(tokenizer, template, room, system):
    """A failure would mean that answers are lost, doubled or cut, or lose the system message (trap 8)."""
    width = int(room * (len(template.encode(long_chat(1, system=system).messages).ids) - 1))
    made, counts = documents(tokenizer, template, [long_chat(system=system)], width)
    whole = len(template.encode(long_chat(system=system).messages).ids) - 1
    assert counts["conversations split at a user turn"] == (whole > width)
    answers = [part.strip() for document in made for part in trained_parts(tokenizer, document)]
    assert answers == [f"answer {n}" for n in range(6)]
    assert counts["truncated"] == 0
    for document in made:
        assert len(document.ids) - 1 <= width
        text = tokenizer.decode(document.ids, skip_special=True)
        assert ("be kind" in text) == (system is not None)
        assert document.where == Where("c.jsonl", 1)


def test_windows_are_as_long_as_they_can_be(tokenizer):
    """A failure would mean that context is thrown away: two neighbouring windows would fit into one row."""
    template, width = ChatTemplate.load("chatml", tokenizer), 60
    talk = long_chat(8)
    encoded = template.encode(talk.messages)
    windows = sft._windows(talk.messages, encoded, width)
    for first, second in itertools.pairwise(windows):
        both = [*first, *second[:2]]
        assert len(template.encode(both).ids) - 1 > width


def test_an_exchange_that_is_too_long_is_cut_and_counted(tokenizer, template):
    """A failure would mean that a cut answer passes for a whole one."""
    record = chat("hi", "word " * 60)
    made, counts = documents(tokenizer, template, [record], width=40)
    assert counts["truncated"] == 1 and len(made) == 1
    assert len(made[0].ids) == 41 and made[0].trained[-1] and made[0].ids[-1] not in template.stop_ids


def test_a_question_that_is_too_long_leaves_nothing_and_is_counted(tokenizer, template):
    """A failure would mean rows without any target (trap 7), or records that vanish unseen."""
    made, counts = documents(tokenizer, template, [chat("word " * 60, "yes")], width=40)
    assert made == [] and counts["dropped, no answer left after truncation"] == 1


def test_drop_drops_and_counts(tokenizer, template):
    """A failure would mean that the option does something else."""
    made, counts = documents(
        tokenizer, template, [long_chat(), chat("hi", "hello")], width=40, overflow="drop"
    )
    assert len(made) == 1 and counts["dropped, too long"] == 1


def test_truncate_cuts_and_counts(tokenizer, template):
    """A failure would mean that the option does something else."""
    made, counts = documents(tokenizer, template, [long_chat()], width=40, overflow="truncate")
    assert len(made) == 1 and len(made[0].ids) == 41 and counts["truncated"] == 1


@pytest.mark.parametrize("overflow", ["split", "truncate", "drop"])
def test_exactly_fitting_is_not_touched(tokenizer, template, overflow):
    """A failure would mean that a row of exactly the width loses its last token."""
    record = chat("hi", "hello")
    size = len(template.encode(record.messages).ids)
    made, counts = documents(tokenizer, template, [record], width=size - 1, overflow=overflow)
    assert len(made) == 1 and len(made[0].ids) == size and not +counts


def test_user_turns_in_a_row_and_at_the_end(tokenizer, template):
    """A failure would mean a crash, or a shift of the mask, on conversations as people really have them."""
    said = [("user", "one"), ("user", "two"), ("assistant", "first"), ("user", "three"), ("assistant", "second"),
            ("user", "bye")]  # fmt: skip
    record = Chat(tuple(Message(role, text) for role, text in said), Where("c", 1))
    least = len(template.encode(record.messages[:3]).ids) - 1
    for width in (least, 2 * least, 10_000):
        made, _ = documents(tokenizer, template, [record], width)
        parts = [part.strip() for document in made for part in trained_parts(tokenizer, document)]
        assert parts == ["first", "second"]


def test_special_tokens_in_a_message_are_ordinary_text(tokenizer):
    """A failure would mean that a user's text can end the assistant's turn in training."""
    template = ChatTemplate.load("chatml", tokenizer)
    (document,), _ = documents(tokenizer, template, [chat("say <|im_end|>", "<|im_end|> said")])
    ends = [n for n, i in enumerate(document.ids) if i == tokenizer.end_of_turn]
    assert len(ends) == 2
    assert [n for n in ends if document.trained[n]] == ends[1:]


def test_all_of_a_large_set(tokenizer):
    """A failure would mean that conversations at the borders of chunks are lost."""
    template = ChatTemplate.load("chatml", tokenizer)
    records = [chat("hi", f"number {n}", line=n + 1) for n in range(2 * sft.CHUNK + 3)]
    made, _ = documents(tokenizer, template, records)
    assert [document.where.line for document in made] == [n + 1 for n in range(len(records))]


@pytest.mark.parametrize(
    "record,what",
    [
        (Text("a book", Where("b.txt", 7)), "text records"),
        (Chat((Message("user", "hi"), Message("user", "anyone?")), Where("b.txt", 7)), "nothing to train"),
    ],
)
def test_rows_without_anything_to_train_are_named(tokenizer, template, record, what):
    """A failure would mean zero trained tokens with a normal-looking curve (marin#7237)."""
    with pytest.raises(UserError, match=what) as caught:
        documents(tokenizer, template, [chat("hi", "hello"), record])
    assert caught.value.where == "b.txt:7"
