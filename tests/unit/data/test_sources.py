"""Converters of packages: what comes out is what the source says, and what was left out is counted."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile

import pytest

from lmcraft.core.errors import UserError
from lmcraft.data.load import load
from lmcraft.data.sources import conll2003, joined, vader


def test_conll2003(tmp_path):
    """A failure would mean that words and tags are shifted against each other, or parts mixed up."""
    lines = "-DOCSTART- -X- -X- O\n\nEU NNP B-NP B-ORG\nrejects VBZ B-VP O\n\n\nPeter NNP B-NP B-PER\nX NNP I-NP I-PER"
    for part, text in (("train", lines), ("valid", "a DT O O\n"), ("test", "")):
        (tmp_path / f"{part}.txt").write_text(text, encoding="utf-8")
    out = tmp_path / "out"
    out.mkdir()
    counts = conll2003.convert(tmp_path, out / "train.jsonl")
    rows = [json.loads(line) for line in (out / "train.jsonl").read_text().splitlines()]
    assert rows == [
        {"tokens": ["EU", "rejects"], "tags": ["B-ORG", "O"]},
        {"tokens": ["Peter", "X"], "tags": ["B-PER", "I-PER"]},
    ]
    assert counts == {
        "train: sentences": 2, "train: entities": 2, "valid: sentences": 1, "valid: entities": 0,
        "test: sentences": 0, "test: entities": 0,
    }  # fmt: skip
    assert load(out / "train.jsonl").require().shape == "ner"


def test_vader(tmp_path):
    """A failure would mean that praise is labelled as blame, or that unclear sentences are trained on."""
    files = {
        "tweets_GroundTruth.txt": "1\t2.5\tlove &amp; peace\r\n2\t-1.5\tso bad\r\n3\t0.4\tmeh",
        "movieReviewSnippets_GroundTruth.txt": "1\t-0.5\tso dull\r\n2\t3\tlove & peace",
        "amazonReviewSnippets_GroundTruth.txt": "1_1\t-0.49\twell",
        "nytEditorialSnippets_GroundTruth.txt": "1_1\t1\tgood",
    }
    with tarfile.open(tmp_path / "hutto_ICWSM_2014.tar.gz", "w:gz") as archive:
        for name, text in files.items():
            info = tarfile.TarInfo(f"hutto_ICWSM_2014/{name}")
            info.size = len(text.encode())
            archive.addfile(info, io.BytesIO(text.encode()))
    counts = vader.convert(tmp_path, tmp_path / "out.jsonl")
    rows = {row["text"]: row for row in map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines())}
    assert {text: row["label"] for text, row in rows.items()} == {
        "love & peace": "positive", "so bad": "negative", "so dull": "negative", "good": "positive",
    }  # fmt: skip
    assert rows["so bad"] == {"text": "so bad", "label": "negative", "rating": -1.5, "source": "tweets"}
    assert counts == {
        "sentences": 7, "positive": 2, "negative": 2, "left out: rated nearer to 0 than 0.5": 2,
        "left out: the same text again": 1,
    }  # fmt: skip
    assert load(tmp_path / "out.jsonl").require().shape == "classification"


def test_joined(tmp_path):
    """A failure would mean that the parts of a model are put together in the wrong order, or with one missing."""
    parts = [b"one", b"two", b"three"]
    (tmp_path / "SHA256SUMS").write_text(f"{hashlib.sha256(b''.join(parts)).hexdigest()}  big.gguf\n")

    def convert(*numbers):
        for number in numbers:
            (tmp_path / f"big.gguf.part{number:02}").write_bytes(parts[number])
        return joined.convert(tmp_path, tmp_path / "big.gguf")

    assert convert(2, 0, 1) == {"parts": 3}
    assert (tmp_path / "big.gguf").read_bytes() == b"onetwothree" and not list(tmp_path.glob("*.part*"))
    with pytest.raises(UserError, match="do not make the whole"):
        convert(0, 2)
