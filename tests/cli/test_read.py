"""Encoders from the command line: train each of the four stages, read with the result, measure it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lmcraft.cli.main import run

FEW = ["train.steps=12", "train.batch_size=8", "train.lr=0.01", "train.precision=fp32"]
NEW = ["model=nano", "model.context=48", "tokenizer.vocab=300"]
NAMES = ("Anna", "Peter", "Maria", "Ivan")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data of each kind, and an encoder that was trained to guess words."""
    place = tmp_path_factory.mktemp("encoders")
    days = [(f"a {word} day {n}", word) for n in range(30) for word in ("good", "bad")]
    seen = [[f"{name}", "saw", f"{n}"] for n in range(15) for name in NAMES]
    rows: dict[str, list[dict[str, Any]]] = {
        "days": [{"text": text, "label": label} for text, label in days],
        "seen": [{"tokens": words, "tags": ["B-PER", "O", "O"]} for words in seen],
        "pairs": [{"source": text, "target": text.replace("day", "night")} for text, _ in days],
        "texts": [{"text": text} for text, _ in days],
    }
    for name, made in rows.items():
        (place / f"{name}.jsonl").write_text("\n".join(map(json.dumps, made)))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        assert run(["train", "mask", "data=texts.jsonl", *NEW, *FEW, "--out", "runs/words"]) == 0
    return place


@pytest.fixture
def shell(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """A function: arguments of a command that must succeed → the JSON it prints with --json, else its text."""
    monkeypatch.chdir(folder)

    def call(*arguments: str) -> Any:
        capsys.readouterr()
        code = run(arguments)
        out, err = capsys.readouterr()
        assert code == 0, err
        return json.loads(out) if "--json" in arguments else out

    return call


def test_masked_words(shell) -> None:
    """If this failed, a trained encoder could not be asked anything."""
    found = shell("read", "runs/words", "a [MASK] day 3", "a good [MASK] [MASK]", "--count", "3", "--json")
    assert found["task"] == "words" and [len(text["masks"]) for text in found["texts"]] == [1, 2]
    assert all(len(mask) == 3 for text in found["texts"] for mask in text["masks"])
    assert "[MASK]" in shell("read", "runs/words", "a [MASK] day 3")


def test_classes(shell) -> None:
    """If this failed, fine-tuning, reading or measuring a classifier would not work as the page says."""
    base = ["base=runs/words", "data=days.jsonl", "data.holdout=0.3"]
    shell("train", "classify", *base, *FEW, "--out", "runs/days")
    found = shell("read", "runs/days", "a good day 7", "a bad day 9", "--json")
    assert [text["label"] for text in found["texts"]] == ["good", "bad"]
    measured = shell("eval", "runs/days", "labels", "--json")
    assert measured["metrics"]["accuracy"] == 1.0 and measured["metrics"]["roc_auc"] == 1.0
    assert measured["settings"]["positive"] == "good"
    shown = shell("eval", "runs/days", "labels", "days.jsonl", "positive=bad")
    assert "is \\ said" in shown and "positive bad" in shown
    kept = json.loads(Path("runs/days/evals/labels.json").read_text())
    assert kept["tables"]["confusion"]["columns"] == ["is \\ said", "bad", "good"]
    shell(
        "train", "classify", *base, *FEW, "--out", "runs/days"
    )  # finished: nothing to do, no other settings seen


def test_classes_beside_a_frozen_base(shell) -> None:
    """If this failed, a head trained with an adapter would be lost when it is loaded, or when the two are merged."""
    shell(
        "train", "classify", "base=runs/words", "data=days.jsonl", "data.holdout=0.3", "adapter=lora", *FEW,
        "--out", "runs/beside",
    )  # fmt: skip
    assert not Path("runs/beside/model").exists() and Path("runs/beside/adapter/lmcraft.json").is_file()
    beside = shell("eval", "runs/beside", "labels", "--json")
    assert beside["metrics"]["accuracy"] == 1.0
    shell("merge", "runs/beside", "--out", "models/merged")
    texts = ["a good day 7", "a bad day 9", "a day"]
    for words in (["eval", "labels", "days.jsonl"], ["read", *texts]):
        apart, merged = (
            shell(words[0], place, *words[1:], "--json") for place in ("runs/beside", "models/merged")
        )
        same(merged, apart)


def same(found, expected) -> None:
    """Equal but for the rounding of numbers, and for where the model lies."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for name in expected.keys() - {"model"}:
            same(found[name], expected[name])
    elif isinstance(expected, list):
        for one, other in zip(found, expected, strict=True):
            same(one, other)
    else:
        assert found == (pytest.approx(expected, abs=1e-4) if isinstance(expected, float) else expected)


def test_classes_from_nothing(shell) -> None:
    """If this failed, a run whose stage adds a head would refuse to be given again with the same settings."""
    words = ["train", "classify", "data=days.jsonl", "model.kind=decoder", *NEW, *FEW, "--out", "runs/new"]
    shell(*words)
    shell(*words)
    shell("train", "runs/new/config.yaml")
    assert "kind: decoder" in Path("runs/new/config.yaml").read_text()
    assert shell("read", "runs/new", "a bad day 1", "--json")["texts"][0]["label"] in ("good", "bad")


def test_tags(shell) -> None:
    """If this failed, names could not be found, or their F1 would not be printed."""
    shell(
        "train", "tag", "base=runs/words", "data=seen.jsonl", "data.holdout=0.3", *FEW, "--out", "runs/names"
    )
    found = shell("read", "runs/names", "Anna saw 3", "--json")["texts"][0]
    assert found["words"] == ["Anna", "saw", "3"]
    assert found["entities"] == [{"type": "PER", "words": ["Anna"], "start": 0, "stop": 1}]
    assert shell("eval", "runs/names", "tags", "--json")["metrics"]["f1"] == 1.0
    assert "PER" in shell("eval", "runs/names", "tags")


def test_embeddings(shell) -> None:
    """If this failed, texts could not be compared, or the retrieval accuracy would not be printed."""
    shell("train", "embed", "base=runs/words", "data=pairs.jsonl", *FEW, "--out", "runs/vectors")
    found = shell("read", "runs/vectors", "a good day 3", "a good day 4", "a bad day 3", "--json")["texts"]
    assert all(found[n]["cosine"][n] == pytest.approx(1.0, abs=1e-5) for n in range(3))
    measured = shell("eval", "runs/vectors", "retrieval", "pairs.jsonl", "--json")
    assert 0.02 < measured["metrics"]["recall_at_1"] <= 1 and measured["settings"]["candidates"] == 60
    assert "cosine" in shell("read", "runs/vectors", "a", "b")


def test_mistakes_are_told(shell, capsys: pytest.CaptureFixture[str]) -> None:
    """If this failed, a wrong verb for a model would end in a traceback."""
    for words, what in (
        (["generate", "runs/words", "a"], "lmcraft read runs/words"),
        (["read", "runs/words", "nothing hidden"], "no word is masked"),
        (["eval", "runs/words", "labels", "days.jsonl"], "does not classify"),
        (["train", "pretrain", "base=runs/words", "data=texts.jsonl"], "cannot be trained to continue"),
        (["train", "classify", "base=runs/words", "data=texts.jsonl"], "texts with a class"),
        (["train", "classify", "model.kind=heads", "data=days.jsonl"], "names no model"),
    ):
        assert run(words) == 2
        assert what in capsys.readouterr().err
