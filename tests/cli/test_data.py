"""`lmcraft data`: what it says of a file is true, in both forms, and a file without a usable row ends with code 2."""

from __future__ import annotations

import json
import os

import pytest

from lmcraft.cli.main import run
from lmcraft.data.synthetic import conversations
from lmcraft.text.tokenizer import Tokenizer

CHATS = [
    {"messages": [{"role": message.role, "content": message.content} for message in chat.messages]}
    for chat in dict.fromkeys(conversations(40))
][:30]


@pytest.fixture
def chats(tmp_path, monkeypatch):
    """Thirty conversations, one of them twice, and two rows that cannot be used."""
    monkeypatch.chdir(tmp_path)
    rows = [json.dumps(chat) for chat in CHATS]
    rows[3:3] = ["{broken", '{"messages": [{"role": "user", "content": "alone"}]}']
    (tmp_path / "chats.jsonl").write_text("\n".join([*rows, rows[0]]) + "\n")
    return "chats.jsonl"


@pytest.fixture
def tokenizer(tmp_path):
    """A small tokenizer in a directory."""
    Tokenizer.train((m["content"] for chat in CHATS for m in chat["messages"]), 300).save(tmp_path / "tok")
    return "tok"


def told(capsys, *arguments, code=0):
    """Runs the verb; returns what it printed: parsed with --json."""
    capsys.readouterr()
    assert run(["data", *map(str, arguments)]) == code
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    return json.loads(out) if "--json" in arguments else out + err


def test_the_facts(chats, capsys):
    """A failure would mean that a program decides by wrong numbers or misses the problems."""
    facts = told(capsys, chats, "--json")
    assert (facts["shape"], facts["kind"], facts["records"]) == ("messages", "chat", 31)
    assert facts["files"] == {"chats.jsonl": {"shape": "messages", "records": 31, "problems": 2}}
    assert [one["where"] for one in facts["problems"]["first"]] == ["chats.jsonl:4", "chats.jsonl:5"]
    assert facts["problems"]["count"] == 2
    assert facts["repetitions"] == {
        "count": 1, "first": [{"where": "chats.jsonl:33", "of": "chats.jsonl:1", "similarity": 1.0}],
    }  # fmt: skip
    spans = facts["rows"][0]["spans"]
    assert [(span["text"], span["trained"]) for span in spans] == [
        (message["content"], message["role"] == "assistant") for message in CHATS[0]["messages"]
    ]
    assert len(facts["rows"]) == 3 and "tokens" not in facts["statistics"]


def test_the_page(chats, capsys):
    """A failure would mean that a person is not shown the problems, or what is trained."""
    text = told(capsys, chats, "--rows", 1)
    question, answer = (message["content"] for message in CHATS[0]["messages"][:2])
    for words in (
        "chats.jsonl: 31 messages rows, 2 problems", "chats.jsonl:4: not JSON", "chats.jsonl:5: the conversation",
        "chats.jsonl:33 repeats chats.jsonl:1", f"user: {question}\n", f"assistant: «{answer}»\n", "turns",
    ):  # fmt: skip
        assert words in text
    assert "chats.jsonl:2\n" not in text and "chats.jsonl:2\n" in told(capsys, chats, "--rows", 2)


def test_with_a_tokenizer(chats, tokenizer, capsys):
    """A failure would mean that tokens, template text or truncation are not what training will see."""
    facts = told(capsys, chats, "--tokenizer", tokenizer, "--context", 10, "--json")
    spans = facts["rows"][0]["spans"]
    answer = CHATS[0]["messages"][1]["content"]
    assert "<|im_start|>user\n" in spans[0]["text"] and not spans[0]["trained"]
    assert spans[1]["text"] == f"{answer}<|im_end|>" and spans[1]["trained"]
    assert facts["statistics"]["longer_than_the_context"] == 31
    assert 0 < facts["statistics"]["trained_tokens"]["share"] < 1
    plain = told(capsys, chats, "--tokenizer", tokenizer, "--template", "plain", "--json")
    assert "<user>\n" in plain["rows"][0]["spans"][0]["text"]


def test_colours_only_on_a_terminal(chats, lmcraft, tokenizer):
    """A failure would mean that the trained part cannot be seen, or that control codes end up in files."""
    shown = lmcraft("data", chats, "--tokenizer", tokenizer, "--rows", 1)
    assert "\x1b" not in shown.stdout and "«" in shown.stdout
    settings = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    coloured = lmcraft(
        "data", chats, "--rows", 1, env={**settings, "FORCE_COLOR": "1", "TERM": "xterm-256color"}
    )
    answer = CHATS[0]["messages"][1]["content"]
    assert f"\x1b[1;32m{answer}\x1b[0m" in coloured.stdout and "«" not in coloured.stdout


def test_text_from_data_cannot_steer_the_terminal(tmp_path, capsys):
    """A failure would mean that a hostile row clears the screen, sets the title or hides what it says."""
    bad = "a\x1b]0;title\x07\x1b[2Jb\u202egnp"
    (tmp_path / "x.jsonl").write_text(json.dumps({"text": bad, "label": bad}))
    text = told(capsys, tmp_path / "x.jsonl")
    assert not {"\x1b", "\x07", "\u202e"} & set(text) and "U+001B" in text


def test_long_rows_are_cut(tmp_path, capsys):
    """A failure would mean that one book scrolls everything else away."""
    (tmp_path / "x.txt").write_text("word " * 100_000)
    text = told(capsys, tmp_path / "x.txt")
    assert len(text) < 5000 and "(500,000 characters)" in text


@pytest.mark.parametrize(
    "content",
    ["", "{broken\n" * 20, '{"odd": 1}\n', '{"messages": []}\n'],
    ids=["empty", "broken", "unknown columns", "nothing to train"],
)
def test_no_usable_row(tmp_path, capsys, content):
    """A failure would mean that a script goes on to train on nothing."""
    path = tmp_path / "x.jsonl"
    path.write_text(content)
    assert str(path) in told(capsys, path, code=2)
    assert set(told(capsys, path, "--json", code=2)["error"]) == {"what", "where", "why", "fix"}


def test_what_cannot_be_asked(chats, capsys):
    """A failure would mean that an option is silently without effect."""
    assert "need --tokenizer" in told(capsys, chats, "--template", "plain", code=2)
    assert "need --tokenizer" in told(capsys, chats, "--context", 5, code=2)
    assert "no kind of data called" in told(capsys, chats, "--kind", "apples", code=2)
    assert "--rows" in told(capsys, chats, "--rows", -1, code=2)
    assert "no such data file" in told(capsys, "none.jsonl", code=2)


def test_near_duplicates(tmp_path, capsys):
    """A failure would mean that copies with a changed word are not found when they are asked for."""
    words = " ".join(f"word{n}" for n in range(300))
    (tmp_path / "x.jsonl").write_text(
        "".join(json.dumps({"text": text}) + "\n" for text in (words, words + " more"))
    )
    assert told(capsys, tmp_path / "x.jsonl", "--json")["repetitions"]["count"] == 0
    assert told(capsys, tmp_path / "x.jsonl", "--near", "--json")["repetitions"]["count"] == 1
