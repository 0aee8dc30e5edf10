"""Classes measured: numbers by hand, AUC against counting pairs, cases in which a number does not exist."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import numpy as np
import pytest

from lmcraft.core.errors import UserError
from lmcraft.data.records import Labeled, Text, Where
from lmcraft.evals import labels
from lmcraft.generate.reading import Label


class Scripted:
    """A model that gives known probabilities."""

    def __init__(self, names: list[str], rows: list[list[float]]) -> None:
        self.config = SimpleNamespace(labels=tuple(names))
        self.rows = rows

    def classify(self, texts):
        names = self.config.labels
        return [
            Label(names[int(np.argmax(row))], max(row), dict(zip(names, row, strict=True)))
            for row in self.rows
        ]


def measure(names, rows, gold, **settings):
    records = [Labeled(f"text {n}", label, Where("d", n)) for n, label in enumerate(gold)]
    return labels.run(Scripted(names, rows), records, labels.Config(**settings))


ROWS = [[0.9, 0.1], [0.4, 0.6], [0.2, 0.8], [0.7, 0.3], [0.3, 0.7]]
GOLD = ["ham", "ham", "spam", "spam", "spam"]  # said: ham, spam, spam, ham, spam


def test_two_classes_by_hand():
    """A difference would mean that published numbers are not what they are called."""
    found = measure(["ham", "spam"], ROWS, GOLD)
    assert found.settings["positive"] == "spam"
    expected = {
        "accuracy": 3 / 5, "precision": 2 / 3, "recall": 2 / 3, "f1": 2 / 3, "f1_macro": (2 / 3 + 1 / 2) / 2,
        "f1_weighted": (3 * 2 / 3 + 2 * 1 / 2) / 5, "f1_micro": 3 / 5, "roc_auc": 5 / 6,
    }  # fmt: skip
    assert found.metrics == pytest.approx(expected)
    assert found.tables["confusion"]["rows"] == [["ham", 1, 1], ["spam", 1, 2]]
    assert [sample["said"] for sample in found.samples] == ["ham", "spam", "spam", "ham", "spam"]
    other = measure(["ham", "spam"], ROWS, GOLD, positive="ham")
    assert other.metrics["f1"] == pytest.approx(1 / 2) and other.metrics["roc_auc"] == pytest.approx(5 / 6)


def test_auc_is_the_share_of_pairs_in_order():
    """A difference would mean that an AUC is made from decisions instead of scores (trap 55)."""
    draw = np.random.default_rng(0)
    names = ["a", "b", "c"]
    for _ in range(20):
        gold = draw.choice(names, 12).tolist()
        scores_NX = np.round(draw.dirichlet(np.ones(3), 12), 1)  # with ties
        found, note = labels.roc_auc(gold, scores_NX, names)
        areas = []
        for place, name in enumerate(names):
            pairs = [
                (scores_NX[i, place], scores_NX[j, place])
                for i, j in itertools.product(range(12), repeat=2)
                if gold[i] == name and gold[j] != name
            ]
            if pairs:
                areas.append(sum((a > b) + (a == b) / 2 for a, b in pairs) / len(pairs))
        assert found == pytest.approx(np.mean(areas)) and bool(note) == (len(areas) < 3)


def test_an_area_that_does_not_exist_is_not_made_up():
    """A failure would mean a crash, or 0.5 or NaN in a table, for data of one class."""
    found = measure(["ham", "spam"], ROWS[:2], ["ham", "ham"])
    assert "roc_auc" not in found.metrics and "undefined" in found.settings["roc_auc"]
    three = [[0.5, 0.3, 0.2], [0.2, 0.5, 0.3]]
    found = measure(["a", "b", "c"], three, ["a", "b"])
    assert found.metrics["roc_auc"] == 1.0 and "without c" in found.settings["roc_auc"]


def test_classes_the_model_does_not_know_are_wrong():
    """A failure would mean that hard records are left out of the score."""
    found = measure(["ham", "spam"], ROWS[:3], ["ham", "eggs", "spam"])
    assert found.metrics["accuracy"] == pytest.approx(2 / 3)
    assert found.settings["classes that the model does not know"] == "eggs"
    assert found.tables["confusion"]["rows"][2] == ["eggs", 0, 1, 0]


def test_mistakes_are_told():
    """A failure would mean a traceback for data of another shape or a misspelt class."""
    with pytest.raises(UserError, match="no class 'spma'"):
        measure(["ham", "spam"], ROWS, GOLD, positive="spma")
    with pytest.raises(UserError, match="texts with a class"):
        labels.run(Scripted(["a", "b"], []), [Text("x")], labels.Config())
    with pytest.raises(UserError, match="nothing to classify"):
        labels.run(Scripted(["a", "b"], []), [], labels.Config())
