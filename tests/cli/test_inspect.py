"""`lmcraft inspect` writes a page and a picture, and tells the numbers as JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from lmcraft.cli.main import run
from lmcraft.generate.language_model import LanguageModel
from lmcraft.models import decoder
from lmcraft.text.tokenizer import Tokenizer


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LanguageModel:
    """A tiny model saved as `tiny` in the folder where the command runs."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    tokenizer = Tokenizer.train(["the cat sat on the mat"] * 3, 270)
    lm = LanguageModel(
        decoder.build(decoder.Config(vocab=tokenizer.size, layers=2, width=32, heads=2, context=32)),
        tokenizer,
        None,
    )
    lm.save(tmp_path / "tiny")
    return lm


def test_the_page_the_picture_and_the_numbers(model: LanguageModel, tmp_path: Path, capsys) -> None:
    """If this failed, a script could not read what the page shows, or find it."""
    assert run(["inspect", "tiny", "the cat", "--target", " sat", "--json", "--attention", "--top", "3"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["page"], found["picture"]) == ("inspect-tiny.html", "inspect-tiny.png")
    assert (tmp_path / "inspect-tiny.html").is_file() and (
        tmp_path / "inspect-tiny.png"
    ).stat().st_size > 5000
    score = model.score("the cat", " sat")
    assert found["loss"] == pytest.approx(-score.logprob, rel=1e-5) and found["scored_tokens"] == len(
        score.tokens
    )
    ids = [token["id"] for token in found["target"]]
    assert ids == [*model.ids("the cat"), *model.tokenizer.encode(" sat")]
    assert [len(one["top"]) for one in found["predictions"]] == [3] * len(ids)
    assert len(found["lens"]) == 3 and len(found["attention"]) == 2
    [row, *_] = found["attention"][1]["weights"][1]
    assert row[0] == 1 and sum(row[1:]) == 0


def test_out_names_the_page_or_its_folder(model: LanguageModel, tmp_path: Path, capsys) -> None:
    """If this failed, a page would be written where nobody asked for it."""
    assert run(["inspect", "tiny", "the cat", "--out", "a.html"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[-2:] == ["a.html", "a.png"] and "perplexity" in out[0]
    assert run(["inspect", "tiny", "the cat", "--out", "pages"]) == 0
    assert (tmp_path / "pages" / "inspect-tiny.html").is_file() and (
        tmp_path / "pages" / "inspect-tiny.png"
    ).is_file()
    assert "attention" not in json.loads(_json(capsys, "inspect", "tiny", "the cat"))


@pytest.mark.parametrize(
    "arguments,told",
    [
        (["nowhere", "x"], "nothing in the store"),
        (["tiny", "x", "--out", "page.pdf"], "HTML"),
        (["tiny", "x", "--chat"], "base model"),
        (["tiny", "x", "--top", "0"], "top"),
        (["tiny", "x", "--target", "\udcff"], "UTF-8"),
    ],
)
def test_mistakes_are_told(model: LanguageModel, arguments: list[str], told: str, capsys) -> None:
    """If this failed, a mistake would end in a traceback or half a page."""
    before = set(Path().iterdir())
    assert run(["inspect", *arguments]) == 2
    assert told in capsys.readouterr().err
    assert set(Path().iterdir()) == before


def _json(capsys, *arguments: str) -> str:
    capsys.readouterr()
    assert run([*arguments, "--json"]) == 0
    return capsys.readouterr().out
