"""Convert the rated sentences of the VADER paper to labelled JSON Lines: positive or negative.

Hutto and Gilbert, "VADER: A Parsimonious Rule-based Model for Sentiment Analysis of Social Media Text", ICWSM 2014.

1. Each sentence has the mean of 20 people's ratings from -4 to 4. The label is its sign; a mean nearer to 0 than `NEAR`
   is no clear opinion, and such sentences are left out and counted.
2. `rating` and `source` (tweets, movies, products, news) are kept beside it.
3. The order is drawn once by the digest of the text, so that a split by rows mixes the sources; equal texts come once.

Proved by tests/unit/data/test_sources.py.
"""

from __future__ import annotations

import hashlib
import html
import json
import tarfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

NEAR = 0.5
_FILES = {
    "tweets": "tweets_GroundTruth.txt",
    "movies": "movieReviewSnippets_GroundTruth.txt",
    "products": "amazonReviewSnippets_GroundTruth.txt",
    "news": "nytEditorialSnippets_GroundTruth.txt",
}
_LARGEST_BYTES = 2**24


def convert(folder: Path, target: Path) -> dict[str, int]:
    """Write the sentences of `folder`/hutto_ICWSM_2014.tar.gz to `target`; returns what was counted."""
    counts = Counter(sentences=0, positive=0, negative=0)
    rows = {}
    for source, rating, text in _rated(folder / "hutto_ICWSM_2014.tar.gz"):
        counts["sentences"] += 1
        if abs(rating) < NEAR:
            counts[f"left out: rated nearer to 0 than {NEAR}"] += 1
        elif text in rows:
            counts["left out: the same text again"] += 1
        else:
            label = "positive" if rating > 0 else "negative"
            rows[text] = {"text": text, "label": label, "rating": rating, "source": source}
            counts[label] += 1
    with target.open("w", encoding="utf-8", newline="\n") as out:
        for text in sorted(rows, key=lambda text: hashlib.sha256(text.encode()).digest()):
            out.write(json.dumps(rows[text], ensure_ascii=False) + "\n")
    return dict(counts)


def _rated(archive: Path) -> Iterator[tuple[str, float, str]]:
    """(source, mean rating, text) of every line."""
    with tarfile.open(archive) as files:
        for source, name in _FILES.items():
            opened = files.extractfile(f"hutto_ICWSM_2014/{name}")
            assert opened is not None, name  # the archive is pinned by its digest
            for line in opened.read(_LARGEST_BYTES).decode("utf-8").splitlines():
                _, rating, text = line.split("\t", 2)
                yield source, float(rating), html.unescape(text).strip()
