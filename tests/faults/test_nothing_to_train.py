"""Rows, batches and data sets in which nothing is trained are told, with file and line."""

from __future__ import annotations

import json

import pytest
import torch

from lmcraft import api
from lmcraft.core.errors import UserError
from lmcraft.data.batch import IGNORE, Batch
from lmcraft.models import decoder, model
from lmcraft.train import loop
from lmcraft.train.loss import summed_cross_entropy

SMALL = [
    "model=nano", "model.width=16", "model.context=48", "tokenizer.vocab=270", "train.steps=2", "train.batch_size=4",
    "train.precision=fp32", "sample.max_new_tokens=2",
]  # fmt: skip


class Stage:
    def loss(self, net, batch):
        return summed_cross_entropy(net, net(batch.tokens_BT, batch.segments_BT), batch.targets_BT)


class Loader:
    """Gives one batch of two rows; the second time without any target."""

    epoch, rows = 0.0, [0, 1]

    def __init__(self) -> None:
        self.read = 0

    def next(self) -> Batch:
        tokens_BT = torch.tensor([[1, 2, 3], [4, 5, 6]])
        targets_BT = tokens_BT if self.read == 0 else torch.full_like(tokens_BT, IGNORE)
        self.read += 2
        return Batch(tokens_BT, targets_BT, torch.ones_like(tokens_BT), ["a.jsonl:7", "a.jsonl:9, b.jsonl:1"])


def test_a_step_without_targets_names_its_rows(tmp_path):
    """A failure would mean a loss of 0/0, or a step that trains nothing with a normal-looking curve (Soup v0.73.3)."""
    net = model.build(decoder.Config(vocab=8, context=4, layers=1, width=8, heads=2))
    config = loop.Config(steps=3, batch_size=2, lr=1e-3, precision="fp32")
    with pytest.raises(UserError) as caught:
        for step in loop.train(Stage(), net, Loader(), config, tmp_path, lambda text: None):
            assert step.number == 1 and step.targets == 6
    assert "step 2 has nothing to train" in caught.value.what
    assert caught.value.where == "a.jsonl:7; a.jsonl:9, b.jsonl:1"


def rows(tmp_path, *answers: str):
    file = tmp_path / "chats.jsonl"
    lines = [
        {"messages": [{"role": "user", "content": f"question {n}"}, {"role": "assistant", "content": answer}]}
        for n, answer in enumerate(answers)
    ]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


def run_all(*arguments) -> list:
    return list(api.train(*arguments))


def test_a_conversation_without_assistant_words_is_named(tmp_path):
    """A failure would mean that broken rows are trained as prompts, or vanish unseen."""
    file = tmp_path / "chats.jsonl"
    good = {"messages": [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "good day"}]}
    bad = {"messages": [{"role": "user", "content": "hello"}, {"role": "user", "content": "anyone?"}]}
    other = {"messages": [{"role": "user", "content": "bye"}, {"role": "assistant", "content": "see you"}]}
    file.write_text("".join(json.dumps(row) + "\n" for row in (good, other, bad, good)))
    with pytest.raises(UserError) as caught:
        run_all("sft", [f"data={file}", *SMALL], tmp_path / "run")
    assert f"{file}:3" in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_texts_cannot_be_fine_tuned_on(tmp_path):
    """A failure would mean that a book is silently trained as if it were answers."""
    file = tmp_path / "book.txt"
    file.write_text("once upon a time\n\nthere was a king\n")
    with pytest.raises(UserError, match="conversations") as caught:
        run_all("sft", [f"data={file}", "data.holdout=0", *SMALL], tmp_path / "run")
    assert f"{file}:" in str(caught.value)


def test_everything_dropped_is_an_error(tmp_path):
    """A failure would mean a crash deep in the loader, or training on nothing."""
    file = rows(tmp_path, "a very long answer " * 40, "another very long answer " * 40)
    with pytest.raises(UserError, match="nothing to train on") as caught:
        run_all("sft", [f"data={file}", "stage.overflow=drop", "data.holdout=0", *SMALL], tmp_path / "run")
    assert str(file) in caught.value.where


def test_holding_nothing_out_trains(tmp_path):
    """A failure would mean that somebody with three examples cannot use all of them."""
    file = rows(tmp_path, "one", "two", "three")
    steps = run_all("sft", [f"data={file}", "data.holdout=0", *SMALL], tmp_path / "run")
    assert [step.number for step in steps] == [1, 2]
    assert (tmp_path / "run" / "model" / "config.json").is_file()
