"""Loading: files become records of one type, and everything that does not is counted and named."""

from __future__ import annotations

import json

import pytest

from lmcraft.core.errors import UserError
from lmcraft.data.load import load
from lmcraft.data.records import Chat, Message, Pair, Prompt, Text

CHAT = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}
ALPACA = {"instruction": "q", "output": "a"}
TURNS = {"text": "<user>\nq\n<assistant>\na\n"}
Q, A, B = Message("user", "q"), Message("assistant", "a"), Message("assistant", "b")


@pytest.fixture
def file(tmp_path):
    """Writes rows as JSON lines and returns the path."""

    def write(name, rows):
        path = tmp_path / name
        path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
        return path

    return write


def test_nothing_is_dropped_in_silence(file):
    """A failure would mean that rows disappear between file and training."""
    path = file("x.jsonl", [CHAT, "broken", CHAT, {"messages": []}, {"other": 1}, CHAT])
    loaded = load(path)
    assert [record.where.line for record in loaded.records] == [1, 3, 6]
    assert [problem.where.line for problem in loaded.problems] == [2, 4, 5]
    assert loaded.shape == "messages"
    assert loaded.files == {str(path): {"shape": "messages", "records": 3, "problems": 3}}


def test_files_of_one_kind_mix(file):
    """A failure would mean that two exports of the same thing in two shapes cannot be used together."""
    loaded = load([file("a.jsonl", [CHAT]), str(file("b.jsonl", [ALPACA])), file("c.jsonl", [TURNS])])
    assert loaded.records == [Chat((Q, A))] * 3
    assert loaded.shape == "messages, alpaca, turns" and not loaded.problems


def test_files_of_two_kinds_do_not(file):
    """A failure would mean that texts and conversations are trained on as if they were one thing."""
    with pytest.raises(UserError, match="chat and text") as error:
        load([file("a.jsonl", [CHAT]), file("b.jsonl", [{"text": "t"}])])
    assert "a.jsonl:1 and" in str(error.value) and "b.jsonl:1" in str(error.value)


def test_the_shape_may_be_decided_late(file):
    """A failure would mean that a file whose first hundred lines are broken is misread or refused without reason."""
    loaded = load(file("x.jsonl", ["broken"] * 150 + [CHAT]))
    assert (len(loaded.problems), loaded.records) == (150, [Chat((Q, A))])


def test_strict_callers_get_the_first_problems_and_the_count(file):
    """A failure would mean that training starts on a part of the data, or that the mistakes must be searched for."""
    path = file("x.jsonl", [CHAT, *["broken"] * 12])
    with pytest.raises(UserError) as error:
        load(path).require()
    text = str(error.value)
    assert text.startswith("12 of 13 rows cannot be used")
    assert f"{path}:2: not JSON" in text and f"{path}:11:" in text and f"{path}:12:" not in text
    assert "and 2 more" in text
    whole = load(file("y.jsonl", [CHAT]))
    assert whole.require() is whole
    with pytest.raises(UserError, match="1 of 1 rows"):
        load(file("z.jsonl", [])).require()


def test_a_kind_may_be_asked_for(file):
    """A failure would mean that a stage which needs conversations takes whatever comes."""
    assert load(file("a.jsonl", [CHAT]), kind="chat").records == [Chat((Q, A))]
    assert load(file("a.jsonl", [TURNS]), kind="text").records == [Text(TURNS["text"])]
    assert load(file("a.jsonl", [{"text": "t", "label": "l"}]), kind="text").records == [Text("t")]
    assert (
        load(file("a.jsonl", [{"prompt": "q", "completion": "a"}]), kind="completion").shape == "completion"
    )
    with pytest.raises(UserError, match="pair rows are needed here, these are chat rows"):
        load(file("a.jsonl", [CHAT]), kind="pair")
    with pytest.raises(UserError, match="no kind of data called 'chats'"):
        load(file("a.jsonl", [CHAT]), kind="chats")


def test_prompts_follow_from_conversations_and_preferences(file):
    """A failure would mean that reinforcement learning sees the answer in its prompt."""
    longer = {
        "messages": [
            *CHAT["messages"],
            {"role": "user", "content": "r"},
            {"role": "assistant", "content": "s"},
        ]
    }
    assert load(file("a.jsonl", [longer]), kind="prompt").records == [
        Prompt((Q, A, Message("user", "r")), "s")
    ]
    pair = {"prompt": "q", "chosen": "a", "rejected": "b"}
    assert load(file("a.jsonl", [pair]), kind="prompt").records == [Prompt((Q,))]


def test_preferences_follow_from_votes(file):
    """A failure would mean that a vote is learned the wrong way round, or that a tie counts as a preference."""
    a, b = CHAT["messages"], [CHAT["messages"][0], {"role": "assistant", "content": "b"}]
    vote = {"model_a": "m", "model_b": "n", "conversation_a": a, "conversation_b": b}
    other = [{"role": "user", "content": "other"}, a[1]]
    rows = [
        {**vote, "winner": "model_a"},
        {**vote, "winner": "model_b"},
        {**vote, "winner": "tie"},
        {**vote, "winner": "model_a", "conversation_b": None},
        {**vote, "winner": "model_a", "conversation_b": a},
        {**vote, "winner": "model_a", "conversation_b": other},
    ]
    loaded = load(file("a.jsonl", rows), kind="pair")
    assert loaded.records == [Pair((Q,), (A,), (B,)), Pair((Q,), (B,), (A,))]
    reasons = ("a tie", "no conversations", "do not part at an answer", "do not part at an answer")
    for problem, reason in zip(loaded.problems, reasons, strict=True):
        assert reason in problem.what


def test_one_path_is_a_path_and_no_path_is_a_mistake(file):
    """A failure would mean that a string is taken apart into letters, or that nothing is loaded in silence."""
    path = file("x.jsonl", [CHAT])
    assert load(str(path)).records == load(path).records == load([path]).records
    with pytest.raises(UserError, match="no data files are named"):
        load([])


def test_columns_may_have_other_names(tmp_path):
    """A failure would mean that a file of translations has to be rewritten before it can be used."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"en": "one", "de": "eins", "fr": "un"}\n{"en": "two", "fr": "deux"}\n')
    loaded = load(rows, columns={"source": "en", "target": "de"})
    assert [(r.source, r.target) for r in loaded.records] == [("one", "eins")]
    assert [str(p) for p in loaded.problems] == [f"{rows}:2: there is no column 'de'"]
