"""Formats: every shape in use is recognised and becomes the right record; what is wrong with a row is said."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmcraft.core.errors import UserError
from lmcraft.data.conversations import turns
from lmcraft.data.formats import SHAPES, record, shape
from lmcraft.data.lines import Row
from lmcraft.data.records import (
    Chat,
    Labeled,
    Message,
    Pair,
    Parallel,
    Problem,
    Prompt,
    Rated,
    Tagged,
    Text,
    Vote,
    Where,
)

HERE = Where("x.jsonl", 1)


def user(text):
    return Message("user", text)


def assistant(text):
    return Message("assistant", text)


def system(text):
    return Message("system", text)


def said(*pairs):
    return [{"role": role, "content": content} for role, content in pairs]


QA = said(("user", "q"), ("assistant", "a"))
Q, A, B = user("q"), assistant("a"), assistant("b")

GOOD = [
    ("text", {"text": " a\n"}, Text(" a\n")),
    ("turns", {"text": "<user>\nq\n\nr\n<assistant>\na\n"}, Chat((user("q\n\nr"), A))),
    ("turns", {"text": "<system>\ns\n<user>\nq\n<assistant>\na"}, Chat((system("s"), Q, A))),
    ("messages", {"messages": QA}, Chat((Q, A))),
    (
        "messages",
        {"messages": said(("developer", "s"), ("user", "q"), ("assistant", "a"))},
        Chat((system("s"), Q, A)),
    ),
    ("messages", {"messages": said(("system", " "), ("user", "q"), ("assistant", "a"))}, Chat((Q, A))),
    (
        "messages",
        {"messages": [*QA, *said(("tool", "1"), ("tool", "2"), ("assistant", "b"), ("user", "bye"))]},
        Chat((Q, A, Message("tool", "1"), Message("tool", "2"), B, user("bye"))),
    ),
    (
        "sharegpt",
        {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}], "system": "s"},
        Chat((system("s"), Q, A)),
    ),
    ("alpaca", {"instruction": "q", "output": "a"}, Chat((Q, A))),
    ("alpaca", {"instruction": "q", "input": "", "output": "a", "system": None}, Chat((Q, A))),
    (
        "alpaca",
        {"instruction": "q", "input": "in", "output": "a", "system": "s", "history": [["x", "y"]]},
        Chat((system("s"), user("x"), assistant("y"), user("q\nin"), A)),
    ),
    ("completion", {"prompt": "q", "completion": "a"}, Chat((Q, A))),
    ("completion", {"prompt": "q", "response": "a"}, Chat((Q, A))),
    ("completion", {"prompt": said(("user", "q")), "completion": said(("assistant", "a"))}, Chat((Q, A))),
    ("preference", {"prompt": "q", "chosen": "a", "rejected": "b"}, Pair((Q,), (A,), (B,))),
    (
        "preference",
        {"prompt": "q", "chosen": "a", "rejected": "b", "margin": -0.5, "weight": 2},
        Pair((Q,), (A,), (B,), margin=-0.5, weight=2.0),
    ),
    (
        "preference",
        {"prompt": "q", "chosen": "a", "rejected": "b", "margin": "1.5", "weight": ""},
        Pair((Q,), (A,), (B,), margin=1.5),
    ),
    (
        "preference",
        {"prompt": said(("user", "q")), "chosen": QA[1:], "rejected": said(("assistant", "b"))},
        Pair((Q,), (A,), (B,)),
    ),
    (
        "preference",
        {"prompt": "q", "chosen": QA, "rejected": said(("user", "q"), ("assistant", "b"))},
        Pair((Q,), (A,), (B,)),
    ),
    (
        "preference",
        {"chosen": QA, "rejected": said(("user", "q"), ("assistant", "b"))},
        Pair((Q,), (A,), (B,)),
    ),
    (
        "preference",
        {"chosen": "\n\nHuman: q\n\nAssistant: a", "rejected": "\n\nHuman: q\n\nAssistant: b"},
        Pair((Q,), (A,), (B,)),
    ),
    (
        "preference",
        {
            "conversations": [{"from": "human", "value": "q"}],
            "chosen": {"from": "gpt", "value": "a"},
            "rejected": {"from": "gpt", "value": "b"},
        },
        Pair((Q,), (A,), (B,)),
    ),
    ("preference", {"instruction": "q", "input": "", "chosen": "a", "rejected": "b"}, Pair((Q,), (A,), (B,))),
    ("unpaired", {"prompt": "q", "completion": "a", "label": True}, Rated((Q,), (A,), True)),
    ("unpaired", {"prompt": "q", "response": "a", "kto_tag": "False"}, Rated((Q,), (A,), False)),
    ("unpaired", {"prompt": "q", "completion": "a", "label": 0}, Rated((Q,), (A,), False)),
    ("prompt", {"prompt": "q"}, Prompt((Q,))),
    (
        "prompt",
        {"prompt": said(("system", "s"), ("user", "q")), "answer": 42},
        Prompt((system("s"), Q), "42"),
    ),
    ("classification", {"text": "t", "label": "ham"}, Labeled("t", "ham")),
    ("classification", {"text": "t", "label": 1}, Labeled("t", "1")),
    ("classification", {"text": "t", "label": False}, Labeled("t", "false")),
    ("ner", {"tokens": ["Rome", "is"], "tags": ["B-LOC", "O"]}, Tagged(("Rome", "is"), ("B-LOC", "O"))),
    ("ner", {"tokens": ["Rome", "is"], "ner_tags": [5, 0]}, Tagged(("Rome", "is"), ("5", "0"))),
    ("ner", {"tokens": "Rome is", "tags": "B-LOC O"}, Tagged(("Rome", "is"), ("B-LOC", "O"))),
    ("parallel", {"source": "yes", "target": "oui"}, Parallel("yes", "oui")),
    ("summary", {"document": "long", "summary": "short"}, Parallel("long", "short")),
    ("arena", {"model_a": "m", "model_b": "n", "winner": "tie (bothbad)"}, Vote("m", "n", "tie (bothbad)")),
    (
        "arena",
        {
            "model_a": "m",
            "model_b": "n",
            "winner": "model_a",
            "conversation_a": QA,
            "conversation_b": QA,
            "judge": 7,
        },
        Vote("m", "n", "model_a", (Q, A), (Q, A), "7"),
    ),
]


@pytest.mark.parametrize(("name", "value", "expected"), GOOD)
def test_a_row_becomes_its_record(name, value, expected):
    """A failure would mean that data in a common shape is refused, or learned as something that it is not."""
    row = Row(HERE, {**value, "another column": 1})
    assert shape([row]) == name
    made = record(row, name)
    assert made == expected and made.where == HERE


def test_every_shape_is_tried():
    """A failure would mean that a shape was added without a row that shows it."""
    assert {name for name, _, _ in GOOD} == set(SHAPES)


WRONG = [
    ({"text": 3}, "text must be a string, found a number"),
    ({"text": " \n"}, "text is empty"),
    (
        {"prompt": "q", "chosen": "a", "rejected": "b", "margin": "high"},
        "margin must be a number, found 'high'",
    ),
    ({"prompt": "q", "chosen": "a", "rejected": "b", "margin": True}, "margin must be a number"),
    ({"prompt": "q", "chosen": "a", "rejected": "b", "weight": [1]}, "weight must be a number, found a list"),
    (
        {"prompt": "q", "chosen": "a", "rejected": "b", "weight": "nan"},
        "weight must be a number, found 'nan'",
    ),
    ({"prompt": "q", "chosen": "a", "rejected": "b", "weight": 0}, "weight must be above 0"),
    ({"prompt": "q", "chosen": "a", "rejected": "b", "weight": 10**400}, "weight must be a number"),
    ({"messages": "hi"}, "messages must be a list of messages, found a string"),
    ({"messages": []}, "messages is empty"),
    ({"messages": ["hi"]}, "message 1 of messages must be an object, found a string"),
    ({"messages": [{"content": "hi"}]}, "message 1 of messages has no role"),
    ({"messages": said(("wizard", "hi"))}, "unknown role 'wizard'"),
    ({"messages": [{"role": 3, "content": "hi"}]}, "unknown role '3'"),
    ({"messages": said(("user", None))}, "the content of message 1 of messages must be a string, found null"),
    ({"messages": said(("user", [{"type": "text"}]))}, "must be a string, found a list"),
    ({"messages": [*QA[:1], {"role": "assistant", "content": None, "tool_calls": [1]}]}, "tool calls"),
    ({"messages": said(("user", "q"), ("user", "r"), ("assistant", "a"))}, "messages 1 and 2 are both user"),
    ({"messages": [*QA, *QA[1:]]}, "messages 2 and 3 are both assistant"),
    ({"messages": QA[1:]}, "the first message must be the user's"),
    ({"messages": [*QA, *said(("system", "s"))]}, "message 3 is system, which may only be the first"),
    ({"messages": said(("user", "q"), ("tool", "t"), ("assistant", "a"))}, "after user comes assistant"),
    ({"messages": said(("user", "q"), ("assistant", " \n"))}, "the assistant says nothing in message 2"),
    ({"messages": QA[:1]}, "has no assistant turn"),
    ({"messages": said(("system", "s"))}, "has no assistant turn"),
    ({"conversations": [{"from": "gpt", "value": "a"}]}, "the first message must be the user's"),
    ({"instruction": "", "output": "a"}, "instruction is empty"),
    ({"instruction": "q", "output": None}, "output must be a string, found null"),
    ({"instruction": "q", "output": "a", "input": 3}, "input must be a string"),
    ({"instruction": "q", "output": "a", "history": [["x"]]}, "history must be a list of [question, answer]"),
    ({"instruction": "q", "output": "a", "system": 3}, "system must be a string"),
    ({"prompt": "q", "completion": ""}, "the assistant says nothing in message 2"),
    ({"prompt": said(("assistant", "a")), "completion": "b"}, "the first message must be the user's"),
    ({"prompt": QA, "completion": "b"}, "the prompt must end with a message of the user"),
    (
        {"prompt": "q", "completion": said(("user", "r"))},
        "completion must begin with a message of the assistant",
    ),
    ({"prompt": "q", "chosen": "a", "rejected": "a"}, "chosen and rejected are equal"),
    ({"prompt": "q", "chosen": "a", "rejected": " "}, "the assistant says nothing"),
    ({"chosen": "a", "rejected": "b"}, "no prompt column"),
    ({"chosen": QA, "rejected": said(("user", "other"), ("assistant", "b"))}, "the prompt must end with"),
    ({"chosen": QA, "rejected": QA}, "the prompt must end with"),
    ({"prompt": "q", "completion": "a", "label": "maybe"}, "label must be true or false, found 'maybe'"),
    ({"prompt": "q", "completion": "a", "label": []}, "label must be true or false"),
    ({"prompt": 3}, "prompt must be a list of messages, found a number"),
    ({"prompt": "q", "answer": [1]}, "answer must be a string or a number"),
    ({"text": "t", "label": None}, "label must be a string, found null"),
    ({"text": "t", "label": 0.5}, "label must be a string, found a number"),
    ({"tokens": ["a"], "tags": ["x", "y"]}, "1 tokens but 2 tags"),
    ({"tokens": ["a", None], "tags": ["x", "y"]}, "tokens must hold words, found None"),
    ({"tokens": [], "tags": []}, "tokens is empty"),
    ({"tokens": 3, "tags": []}, "tokens must be a list"),
    ({"source": "", "target": "x"}, "source is empty"),
    ({"model_a": "m", "model_b": "n", "winner": "me"}, "winner is 'me'"),
    ({"text": "<user>\nq"}, "has no assistant turn"),
    ({"text": "<user>\nq\n<user>\nr\n<assistant>\na"}, "messages 1 and 2 are both user"),
]


@pytest.mark.parametrize(("value", "words"), WRONG)
def test_a_wrong_row_says_why(value, words):
    """A failure would mean that a row which trains nothing, or wrong things, passes; or that the reason is hidden."""
    row = Row(HERE, value)
    made = record(row, shape([row]))
    assert isinstance(made, Problem) and made.where == HERE
    assert words in made.what


def test_a_message_stays_short():
    """A failure would mean that one hostile row floods the terminal."""
    made = record(Row(HERE, {"messages": [{"role": "x" * 10**6, "content": ""}]}), "messages")
    assert len(made.what) < 500


def test_the_most_common_shape_is_that_of_the_file():
    """A failure would mean that one odd first row decides what ten thousand rows are."""
    rows = [Row(HERE, {"text": "t"}), *(Row(HERE, {"messages": QA}) for _ in range(2)), Row(HERE, {"odd": 1})]
    assert shape(rows) == "messages"
    made = record(rows[0], "messages")
    assert made == Problem(HERE, "the column 'messages' is missing (messages rows)")
    assert "does not begin with a line <user>" in record(rows[0], "turns").what


def test_unknown_columns_name_the_known_ones():
    """A failure would mean that a user with other column names does not learn which ones are read."""
    with pytest.raises(UserError) as error:
        shape([Row(Where("d.csv", 2), {"review": "good", "stars": "5"})])
    text = str(error.value)
    assert "review, stars" in text and '{"text", "label"}' in text and "d.csv:2" in text


line = st.text(st.characters(codec="utf-8", exclude_characters="\n\r<"), min_size=1, max_size=20)
words = line.filter(str.strip)


@given(st.lists(words, min_size=2, max_size=6))
def test_plain_turns_read_what_they_write(contents):
    """A failure would mean that the chapter's own format loses or changes words."""
    roles = ("user", "assistant")
    text = "".join(f"<{roles[n % 2]}>\n{content}\n" for n, content in enumerate(contents))
    assert turns(text) == tuple(Message(roles[n % 2], content) for n, content in enumerate(contents))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["role", "content"]), inner),
)
columns = (
    "messages conversations prompt completion chosen rejected label text tokens tags source target system "
    "instruction input output history answer winner model_a model_b conversation_a conversation_b"
).split()


@given(st.dictionaries(st.sampled_from(columns), json_values))
def test_no_row_gets_past(value):
    """A failure would mean that some row ends in a traceback instead of a problem with its line."""
    for name in SHAPES:
        record(Row(HERE, value), name)
