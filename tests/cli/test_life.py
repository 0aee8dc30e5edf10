"""The whole small life of a model, as a user would type it, on tiny data."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lmcraft.cli.main import run

SMALL = [
    "model=nano", "model.context=64", "tokenizer.vocab=300", "train.steps=4", "train.batch_size=4", "train.save_every=2"
]  # fmt: skip
TUNE = [
    "train",
    "sft",
    "base=runs/book",
    "data=chats.jsonl",
    "train.steps=3",
    "train.batch_size=4",
    "--out",
    "runs/chat",
]


class Shell:
    """Runs commands in this process, which saves the seconds that importing torch takes."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.capsys = folder, capsys

    def __call__(self, *arguments: str) -> tuple[str, str]:
        """Output and messages of a command that must succeed."""
        self.capsys.readouterr()
        code = run(arguments)
        out, err = self.capsys.readouterr()
        assert code == 0, err
        return out, err

    def json(self, *arguments: str) -> Any:
        """The one JSON document that `--json` prints."""
        out, _ = self(*arguments, "--json")
        assert out.count("\n") == 1, out
        return json.loads(out, parse_constant=pytest.fail)


@pytest.fixture
def shell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tales: Callable
) -> Shell:
    monkeypatch.chdir(tmp_path)
    tales(tmp_path)
    return Shell(tmp_path, capsys)


def test_the_whole_life(shell: Shell) -> None:
    """If this failed, some step from raw text to a chat would not fit the one before it."""
    pretrain = ["train", "pretrain", "data=book.txt", *SMALL, "--out", "runs/book"]
    out, err = shell(*pretrain)
    assert out == "" and "done after 4 steps" in err and "lmcraft generate runs/book" in err
    made = shell.json(*pretrain)
    assert made["run"] == "runs/book" and made["status"] == "done" and made["step"] == 4 and made["loss"] > 0
    assert "runs/book is finished already" in shell(*pretrain)[1]

    first = shell.json("generate", "runs/book", "The tale", "-m", "8", "--seed", "3", "-n", "2")
    assert first["prompt"] == "The tale" and len(first["completions"]) == 2
    assert shell.json("generate", "runs/book", "The tale", "-m", "8", "--seed", "3", "-n", "2") == first
    out, _ = shell("generate", "runs/book", "The tale", "-m", "8", "--seed", "3")
    assert out == "The tale" + first["completions"][0]["text"] + "\n"

    out, err = shell(*TUNE)
    assert "done after 3 steps" in err and "lmcraft chat runs/chat" in err
    answer = shell.json("chat", "runs/chat", "3 cats?", "-m", "8", "-t", "0")
    assert answer["message"] == "3 cats?" and answer["finish_reason"] in ("stop", "length")
    assert len(answer["tokens"]) == len(answer["logprobs"]) <= 8
    assert shell("chat", "runs/chat", "3 cats?", "-m", "8", "-t", "0")[0] == answer["text"] + "\n"

    held = shell.json("eval", "runs/chat", "perplexity")
    assert held["settings"]["scored"] == "answers" and held["metrics"]["bits_per_byte"] > 0
    named = shell.json("eval", "runs/book", "perplexity", "book.txt", "window=32", "--limit", "5")
    assert named["settings"]["window"] == 32 and named["settings"]["records"] == 5
    assert (shell.folder / "runs" / "book" / "evals" / "perplexity.json").is_file()

    rows = {row["name"]: row for row in shell.json("runs")["runs"]}
    assert rows["chat"]["parents"] == ["book"] and {row["status"] for row in rows.values()} == {"done"}
    assert shell.json("report", "runs/chat") == {"report": "runs/chat/report.html"}
    assert "perplexity" in (shell.folder / "runs" / "chat" / "report.html").read_text()


def test_looking_at_data_and_making_a_tokenizer(shell: Shell) -> None:
    """If this failed, a user could not see what would be trained, or not share one tokenizer among models."""
    assert shell.json("data", "chats.jsonl")
    shell.json("tokenizer", "train", "book.txt", "--vocab", "300", "--out", "tok")
    settings = [setting for setting in SMALL if "vocab" not in setting]
    shell("train", "pretrain", "data=book.txt", "tokenizer=tok", *settings, "--out", "runs/book")
    ours = (shell.folder / "tok" / "tokenizer.json").read_bytes()
    assert (shell.folder / "runs" / "book" / "model" / "tokenizer.json").read_bytes() == ours
    assert shell.json("show", "runs/book")


def test_a_recipe_in_a_file_and_arguments_beside_it(shell: Shell) -> None:
    """If this failed, a recipe could not be kept in a file, or an argument would throw away its neighbours."""
    (shell.folder / "recipe.yaml").write_text(
        "stage: pretrain\ndata: book.txt\nmodel:\n  preset: tiny\n  context: 64\ntokenizer:\n  vocab: 300\n"
    )
    shell("train", "recipe.yaml", "model=nano", "train.steps=1", "data.context=32", "--out", "runs/book")
    from lmcraft.core import config

    stored = config.read(shell.folder / "runs" / "book" / "config.yaml").value
    assert stored["model"]["preset"] == "nano" and stored["model"]["context"] == 64
    assert stored["data"]["files"] == ["book.txt"] and stored["data"]["context"] == 32
    assert "is finished already" in shell("train", "runs/book/config.yaml")[1]


def test_a_conversation(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """If this failed, a long message or a long conversation would end the chat and lose it."""
    shell("train", "pretrain", "data=book.txt", *SMALL, "--out", "runs/book")
    shell(*TUNE)
    said = iter(
        ["3 cats?", "", "/new", "4 cats?", "cat " * 300, "5 cats?", "6 cats?", "7 cats?", "8 cats?", "/exit"]
    )
    monkeypatch.setattr("builtins.input", lambda _: next(said))
    out, err = shell("chat", "runs/chat", "-m", "8")
    assert next(said, None) is None and out.count("\n") >= 6
    assert "a new conversation" in err and "shorten the prompt" in err and "are forgotten" in err


@pytest.mark.parametrize("out", [["--out", "runs/pretrain-1"], []])
def test_an_interrupt_is_answered_with_the_way_to_go_on(shell: Shell, out: list[str]) -> None:
    """If this failed, Ctrl-C would lose the work of hours, or leave the user without the command that goes on."""
    asked = ["train", "pretrain", "data=book.txt", *SMALL, "train.steps=100000"]
    command = [sys.executable, "-m", "lmcraft", *asked, *out, "--json"]
    metrics = shell.folder / "runs" / "pretrain-1" / "metrics.jsonl"
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=shell.folder
    )
    for _ in range(2000):
        if process.poll() is not None or (metrics.exists() and metrics.stat().st_size):
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    told, progress = process.communicate(timeout=120)
    assert process.returncode == 130, progress
    error = json.loads(told)["error"]
    assert "stopped by SIGINT after step" in error["what"] and "everything is saved" in error["what"]
    assert error["fix"] == "lmcraft train runs/pretrain-1/config.yaml goes on"
    step = int(error["what"].partition("after step ")[2].partition(";")[0])

    from lmcraft import api

    for row in api.train(shell.folder / "runs" / "pretrain-1" / "config.yaml"):
        assert row.number == step + 1
        break
    assert api.Run.open(metrics.parent).state["status"] == "interrupted"
