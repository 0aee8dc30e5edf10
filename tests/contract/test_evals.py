"""Every evaluation keeps the contract: finite numbers, stated settings, a sample for each record, the same twice."""

from __future__ import annotations

import math

import pytest
import torch

from lmcraft.core import find
from lmcraft.data import synthetic
from lmcraft.data.records import Labeled, Message, Pair, Parallel, Tagged, parts
from lmcraft.generate.language_model import LanguageModel
from lmcraft.models import decoder, encdec, encoder, heads
from lmcraft.models import model as models
from lmcraft.text.chat import ChatTemplate
from lmcraft.text.tokenizer import Tokenizer

TEXTS = synthetic.texts(6, seed=2)
PAIRS = [Parallel(r.text[:20], r.text[20:40], r.where) for r in TEXTS]
LABELED = [Labeled(r.text[:40], "ab"[n % 2], r.where) for n, r in enumerate(TEXTS)]
TAGGED = [
    Tagged(words := tuple(r.text.split()[:6]), ("O", "B-X") * (len(words) // 2), r.where) for r in TEXTS
]
ASKED, BETTER = ((Message(role, role),) for role in ("user", "assistant"))
JUDGED = [Pair(ASKED, BETTER, (Message("assistant", r.text[:30]),), r.where) for r in TEXTS]
CASES = {
    "perplexity": [("words", TEXTS), ("words", synthetic.conversations(5, seed=3))],
    "bleu": [("pairs", PAIRS)],
    "labels": [("classes", LABELED)],
    "tags": [("tags", TAGGED)],
    "retrieval": [("vectors", PAIRS)],
    "reward": [("scores", JUDGED)],
}
HEADS = {
    "classes": {"task": "classes", "labels": ("a", "b")},
    "tags": {"task": "tags", "labels": ("O", "B-X")},
    "vectors": {"task": "embedding"},
    "scores": {"task": "score", "pooling": "last"},
}
EVERY = [(kind, *case) for kind, cases in CASES.items() for case in cases]


def language_model(what: str) -> LanguageModel:
    """A tiny model of the kind that an evaluation measures."""
    torch.manual_seed(0)
    records = synthetic.conversations(40, seed=1)
    tokenizer = Tokenizer.train((text for record in records for _, text in parts(record)), 320)
    schema = {"words": decoder, "pairs": encdec}.get(what, encoder)
    model = models.build(schema.Config(vocab=tokenizer.size, context=64, layers=1, width=16, heads=2))
    if what in HEADS:
        model = heads.around(model, **HEADS[what])
    return LanguageModel(
        model, tokenizer, ChatTemplate.load("chatml", tokenizer) if what == "words" else None
    )


def test_every_evaluation_has_a_case():
    """If one had none, its numbers would be trusted untested."""
    assert sorted(CASES) == find.names("evals")


@pytest.mark.parametrize("kind,what,records", EVERY)
def test_contract(kind, what, records):
    """A number that is not finite, an unnamed setting or a missing sample could not be compared or checked later."""
    module, lm = find.module("evals", kind), language_model(what)
    first, second = (module.run(lm, records, module.Config()) for _ in range(2))
    assert first == second
    assert first.kind == kind
    assert first.metrics and all(math.isfinite(value) for value in first.metrics.values())
    assert len(first.samples) == len(records)
    assert all(sample["where"] for sample in first.samples)
    assert first.settings
    for table in first.tables.values():
        assert all(len(row) == len(table["columns"]) for row in table["rows"])
