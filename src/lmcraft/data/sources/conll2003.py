"""Convert the English CoNLL-2003 files to tagged JSON Lines, one file for each of train, valid and test.

1. A blank line ends a sentence; the first column is the word, the last one the tag; `-DOCSTART-` lines separate
   documents and are left out.
2. Tags are those of the source in IOB2 (`B-PER I-PER O …`): every entity begins with B-.

Proved by tests/unit/data/test_sources.py.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

_PARTS = ("train", "valid", "test")


def convert(folder: Path, target: Path) -> dict[str, int]:
    """Write the three parts beside `target` (which is the first of them); returns how many sentences and entities."""
    counts = {}
    for part in _PARTS:
        sentences = entities = 0
        with target.with_name(f"{part}.jsonl").open("w", encoding="utf-8", newline="\n") as out:
            for tokens, tags in _sentences((folder / f"{part}.txt").read_text(encoding="utf-8")):
                out.write(json.dumps({"tokens": tokens, "tags": tags}, ensure_ascii=False) + "\n")
                sentences += 1
                entities += sum(tag.startswith("B-") for tag in tags)
        counts |= {f"{part}: sentences": sentences, f"{part}: entities": entities}
    return counts


def _sentences(text: str) -> Iterator[tuple[list[str], list[str]]]:
    tokens: list[str] = []
    tags: list[str] = []
    for line in [*text.splitlines(), ""]:
        columns = line.split()
        if columns and columns[0] != "-DOCSTART-":
            tokens.append(columns[0])
            tags.append(columns[-1])
        elif tokens:
            yield tokens, tags
            tokens, tags = [], []
