"""Retrieval: ranks against sorting, ties and equal texts, means by hand."""

from __future__ import annotations

import pytest
import torch

from lmcraft.core.errors import UserError
from lmcraft.data.records import Parallel, Text, Where
from lmcraft.evals import retrieval


def test_ranks_against_sorting(monkeypatch):
    """A difference would mean a recall that depends on how the work was cut."""
    monkeypatch.setattr(retrieval, "CHUNK", 3)
    queries_ND, candidates_ND = torch.randn(2, 10, 4, generator=torch.Generator().manual_seed(0))
    texts = [f"text {n}" for n in range(10)]
    expected = []
    for n in range(10):
        order = (candidates_ND @ queries_ND[n]).argsort(descending=True).tolist()
        expected.append(order.index(n) + 1)
    assert retrieval.ranks(queries_ND, candidates_ND, texts) == expected and max(expected) > 1


def test_ties_count_against_and_equal_texts_do_not():
    """A failure would mean that a model that gives every text one vector is perfect, or a right answer is wrong."""
    same_ND = torch.ones(4, 2)
    assert retrieval.ranks(same_ND, same_ND, ["a", "b", "c", "d"]) == [4, 4, 4, 4]
    assert retrieval.ranks(same_ND, same_ND, ["a", "a", "a", "b"]) == [2, 2, 2, 4]


class Scripted:
    """A model with a known vector for each text."""

    def __init__(self, vectors: dict[str, list[float]]) -> None:
        self.vectors = vectors

    def embed(self, texts):
        return torch.tensor([self.vectors[text] for text in texts])


def test_numbers_by_hand():
    """A difference would mean that the two directions, or partners and strangers, are mixed up."""
    vectors = {"a": [1.0, 0.0], "b": [0.0, 2.0], "A": [3.0, 0.0], "B": [1.0, 1.0]}
    records = [Parallel("a", "A", Where("d", 1)), Parallel("b", "B", Where("d", 2))]
    found = retrieval.run(Scripted(vectors), records, retrieval.Config())
    half = 0.5**0.5
    assert found.metrics == pytest.approx(
        # b finds B (half against 0) and a finds A; back, A finds a, and B is as near to a as to b
        {
            "recall_at_1": 3 / 4,
            "mrr": (1 + 1 + 1 + 1 / 2) / 4,
            "pair_cosine": (1 + half) / 2,
            "other_cosine": half / 2,
        }
    )
    assert [sample["rank_back"] for sample in found.samples] == [1, 2]


def test_mistakes_are_told():
    """A failure would mean a traceback, or a perfect score where there is no choice."""
    with pytest.raises(UserError, match="needs pairs"):
        retrieval.run(Scripted({}), [Text("x")], retrieval.Config())
    with pytest.raises(UserError, match="nothing to choose from"):
        retrieval.run(Scripted({}), [Parallel("a", "b")], retrieval.Config())
