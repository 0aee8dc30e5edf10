"""Tags measured: entities counted by hand and by brute force."""

from __future__ import annotations

import random
from types import SimpleNamespace

import pytest

from lmcraft.core.errors import UserError
from lmcraft.data.records import Tagged, Text, Where
from lmcraft.evals import tags
from lmcraft.generate.reading import Tagging

NAMES = ("O", "B-A", "I-A", "B-B", "I-B")


class Scripted:
    """A model that says known tags."""

    def __init__(self, said: list[list[str]]) -> None:
        self.said, self.config = said, SimpleNamespace(labels=NAMES)

    def tag(self, sentences):
        return [
            Tagging(list(words), said, [1.0] * len(said))
            for words, said in zip(sentences, self.said, strict=True)
        ]


def measure(gold: list[list[str]], said: list[list[str]]):
    records = [Tagged(tuple("w" * len(g)), tuple(g), Where("d", n)) for n, g in enumerate(gold)]
    return tags.run(Scripted(said), records, tags.Config())


def test_by_hand():
    """A difference would mean that F1 gives credit for half an entity."""
    found = measure([["B-A", "I-A", "O", "B-B"], ["O", "B-A"]], [["B-A", "O", "O", "B-B"], ["B-B", "B-A"]])
    assert found.metrics == pytest.approx(
        {"accuracy": 4 / 6, "precision": 2 / 4, "recall": 2 / 3, "f1": 4 / 7}
    )
    rows = {row[0]: row[1:] for row in found.tables["entities"]["rows"]}
    assert rows["A"] == pytest.approx([1 / 2, 1 / 2, 1 / 2, 2]) and rows["B"] == pytest.approx(
        [1 / 2, 1, 2 / 3, 1]
    )


def test_against_counting_every_span():
    """A difference would mean that some prediction is scored otherwise than by comparing spans one by one."""
    draw = random.Random(0)
    for _ in range(60):
        gold = [[draw.choice(NAMES) for _ in range(6)] for _ in range(3)]
        said = [[t if draw.random() < 0.6 else draw.choice(NAMES) for t in g] for g in gold]
        there, guessed = (
            [(n, a, b, k) for n, row in enumerate(rows) for a in range(6) for b in range(a + 1, 7) for k in "AB"
             if is_entity(row, a, b, k)]
            for rows in (gold, said)
        )  # fmt: skip
        right = len(set(there) & set(guessed))
        found = measure(gold, said).metrics
        assert found.get("precision", 0.0) == pytest.approx(right / max(1, len(guessed)))
        assert found.get("recall", 0.0) == pytest.approx(right / max(1, len(there)))


def is_entity(row: list[str], start: int, stop: int, kind: str) -> bool:
    """Whether words start … stop-1 are exactly one entity of this type."""

    def begins(place: int) -> bool:
        mark, _, own = row[place].partition("-")
        before = row[place - 1].partition("-")[2] if place else ""
        return mark == "B" or (mark == "I" and before != own)

    inside = all(tag.partition("-")[2] == kind for tag in row[start:stop])
    ends = stop == len(row) or not row[stop].startswith("I-") or begins(stop)
    return inside and begins(start) and not any(map(begins, range(start + 1, stop))) and ends


def test_tags_without_entities_have_an_accuracy_only():
    """A failure would mean an F1 of 0 for a perfect part-of-speech tagger."""
    found = measure([["O", "O"]], [["O", "O"]])
    assert found.metrics == {"accuracy": 1.0} and not found.tables
    unknown = measure([["O", "NEW"]], [["O", "O"]])
    assert (
        unknown.metrics == {"accuracy": 0.5}
        and unknown.settings["tags that the model does not know"] == "NEW"
    )


def test_mistakes_are_told():
    """A failure would mean a traceback for data of another shape."""
    with pytest.raises(UserError, match="words with tags"):
        tags.run(Scripted([]), [Text("x")], tags.Config())
    with pytest.raises(UserError, match="nothing to tag"):
        tags.run(Scripted([]), [], tags.Config())
