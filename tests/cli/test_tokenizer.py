"""`lmcraft tokenizer` trains a vocabulary and shows what it does, without torch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from lmcraft.text.tokenizer import Tokenizer

TEXT = "The quick brown fox jumps over the lazy dog. It's 12345 o'clock!\n"


@pytest.fixture
def book(tmp_path: Path) -> Path:
    file = tmp_path / "book.txt"
    file.write_text(TEXT * 8, encoding="utf-8")
    return file


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    Tokenizer.train([TEXT] * 8, 300).save(tmp_path / "tokenizer")
    return tmp_path / "tokenizer"


def test_training_writes_what_it_says(lmcraft, book: Path, tmp_path: Path) -> None:
    """If this failed, the first step of a model's life would not work from the command line."""
    done = lmcraft("tokenizer", "train", book, "--vocab", 300, "--out", tmp_path / "out", "--json")
    result = json.loads(done.stdout)
    tokenizer = Tokenizer.load(tmp_path / "out")
    assert done.returncode == 0 and result["size"] == tokenizer.size == 300
    assert result["digest"] == tokenizer.digest
    measures = result["on_training_text"]
    assert measures["bytes"] == pytest.approx(len(TEXT) * 8, abs=2)
    assert measures["bytes_per_token"] == pytest.approx(measures["bytes"] / measures["tokens"], abs=1e-3)


def test_the_order_of_files_does_not_matter(lmcraft, book: Path, tmp_path: Path) -> None:
    """If this failed, the same data would give other tokens on a machine that lists files in another order (trap 1)."""
    other = tmp_path / "rows.jsonl"
    other.write_text("".join(json.dumps({"text": f"word {n % 7} " * 3}) + "\n" for n in range(40)))
    digests = [
        json.loads(lmcraft("tokenizer", "train", *files, "--out", tmp_path / str(n), "--json").stdout)[
            "digest"
        ]
        for n, files in enumerate(([book, other], [other, book]))
    ]
    assert digests[0] == digests[1]


def test_a_corpus_that_is_too_small_is_told(lmcraft, book: Path, tmp_path: Path) -> None:
    """If this failed, a user who asked for 4,096 tokens would not know that they got fewer."""
    done = lmcraft("tokenizer", "train", book, "--out", tmp_path / "out", "--json")
    result = json.loads(done.stdout)
    assert result["size"] < result["asked"] == 4096
    assert "not 4,096" in done.stderr


def test_a_tokenizer_is_not_replaced_by_accident(lmcraft, book: Path, trained: Path) -> None:
    """If this failed, a model's tokenizer could be overwritten, and the model with it be lost."""
    before = Tokenizer.load(trained).digest
    done = lmcraft("tokenizer", "train", book, "--out", trained)
    assert done.returncode == 2 and "--overwrite" in done.stderr and "Traceback" not in done.stderr
    assert Tokenizer.load(trained).digest == before
    assert (
        lmcraft("tokenizer", "train", book, "--vocab", 290, "--out", trained, "--overwrite").returncode == 0
    )
    assert Tokenizer.load(trained).size == 290


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "nowhere.txt", "--out", "x"],
        ["train", "BOOK", "--vocab", "9", "--out", "x"],
        ["train", "EMPTY", "--out", "x"],
        ["show", "nowhere", "text"],
        ["show", "BOOK", "text"],
    ],
    ids=" ".join,
)
def test_mistakes_are_told_in_a_few_lines(lmcraft, book: Path, tmp_path: Path, arguments: list[str]) -> None:
    """If this failed, a wrong path or number would be a traceback."""
    (tmp_path / "empty.txt").write_text("")
    paths = {"BOOK": book, "EMPTY": tmp_path / "empty.txt", "x": tmp_path / "x"}
    done = lmcraft("tokenizer", *(paths.get(argument, argument) for argument in arguments))
    assert done.returncode == 2 and done.stderr.startswith("error:") and "Traceback" not in done.stderr


def test_showing_names_every_token(lmcraft, trained: Path) -> None:
    """If this failed, nobody could see where the words are cut."""
    text = "the fox é<|im_end|>"
    result = json.loads(lmcraft("tokenizer", "show", trained, text, "--json").stdout)
    tokenizer = Tokenizer.load(trained)
    assert [token["id"] for token in result["tokens"]] == tokenizer.encode(text)
    assert [token["text"] for token in result["tokens"] if token["special"]] == ["<|im_end|>"]
    assert [token["text"] for token in result["tokens"]][-3:-1] == ["\\xc3", "\\xa9"]
    assert result["compression"]["bytes"] == len(text.encode())
    plain = json.loads(lmcraft("tokenizer", "show", trained, text, "--plain", "--json").stdout)
    assert not any(token["special"] for token in plain["tokens"])
    shown = lmcraft("tokenizer", "show", trained, "the fox").stdout.splitlines()
    assert shown[0].replace("|", "") == "the·fox"
    assert [int(number) for number in shown[1].split()] == tokenizer.encode("the fox")


def test_no_torch_is_needed(trained: Path) -> None:
    """If this failed, looking at a few tokens would take seconds."""
    code = (
        "import sys; from lmcraft.cli.main import run; "
        f"assert run(['tokenizer', 'show', {str(trained)!r}, 'x', '--json']) == 0; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL, timeout=60)
