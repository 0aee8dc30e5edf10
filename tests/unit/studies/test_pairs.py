"""The lines of the translation study: no item of the test is in training, and tokens of numbers are their parts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lmcraft.core.errors import UserError
from lmcraft.data import number_words
from lmcraft.studies import pairs

pytest.importorskip("num2words")
SMALL = pairs.Sizes(lines=60, test_lines=3, joined=4, lengths=(8, 16), below=10**6)


def test_no_number_of_the_test_is_in_training() -> None:
    """If this failed, "unseen numbers" would have been seen."""
    task = pairs.numbers(SMALL, seed=0)
    seen = {number for row in task.train for number in row.source.split("; ")}
    test = [*task.items, *(row for group in task.groups.values() for row in group)]
    assert not seen & {number for row in test for number in row.source.split("; ")}
    assert list(task.groups) == ["1–8", "9–16"] and all(pairs.words(row) <= 16 for row in task.train)
    assert all(low <= pairs.words(row) <= high for (low, high), name in (((1, 8), "1–8"), ((9, 16), "9–16"))
               for row in task.groups[name])  # fmt: skip
    assert not any(";" in row.source for row in task.items) and len(task.aligned) == 2 * pairs.ALIGNED_LINES


def test_tokens_of_numbers_are_their_parts() -> None:
    """If this failed, a token could stand for two parts, and an alignment error would be one of the tokenizer."""
    tokenizer = pairs.parts_tokenizer()
    for numbers in number_words.rows(200, 3, 10**9, 2):
        for side, language in enumerate(("en", "de")):
            text = number_words.line(numbers, language)
            ids = tokenizer.encode_plain(text)
            assert tokenizer.decode(ids) == text
            tokens = [tokenizer.decode([number]).strip(" -,;") for number in ids]
            parts = [
                part.strip(" -,;") for number in numbers for part, _ in number_words.pieces(number)[side]
            ]
            assert [token for token in tokens if token] == [part for part in parts if part]


def test_letters_of_the_test_are_new_and_of_every_length() -> None:
    """If this failed, copying could be remembering."""
    for name in ("copy", "reverse"):
        task = pairs.letters(name, SMALL, seed=0)
        seen = {row.source for row in task.train}
        long = [row for row in task.items if pairs.words(row) > 2]
        assert long and not any(row.source in seen for row in long) and list(task.groups) == ["1–8", "9–16"]


def test_pairs_of_a_file_are_joined_and_held_out(tmp_path: Path) -> None:
    """If this failed, the table by length would be empty for one's own pairs, or measured on what was trained."""
    file = tmp_path / "pairs.jsonl"
    rows = [{"en": f"the house number {n}", "de": f"das Haus Nummer {n}"} for n in range(80)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = pairs.of_file(str(file), {"source": "en", "target": "de"}, SMALL, seed=0)
    seen = {row.source for row in task.train}
    assert not any(row.source in seen for row in task.items) and not task.by_tokens
    assert any(pairs.words(row) > 4 for row in task.train)
    assert all(row.source.count("house") == row.target.count("Haus") for row in task.groups["9–16"])
    file.write_text("".join(json.dumps(row) + "\n" for row in rows[:2]))
    with pytest.raises(UserError, match="too few pairs"):
        pairs.of_file(str(file), {"source": "en", "target": "de"}, SMALL, seed=0)
