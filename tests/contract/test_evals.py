"""Every evaluation keeps the contract: finite numbers, stated settings, a sample for each record, the same twice."""

from __future__ import annotations

import math

import pytest
import torch

from lmcraft.core import find
from lmcraft.data import synthetic
from lmcraft.data.records import parts
from lmcraft.generate.language_model import LanguageModel
from lmcraft.models import decoder
from lmcraft.models import model as models
from lmcraft.text.chat import ChatTemplate
from lmcraft.text.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    torch.manual_seed(0)
    records = synthetic.conversations(40, seed=1)
    tokenizer = Tokenizer.train((text for record in records for _, text in parts(record)), 320)
    model = models.build(decoder.Config(vocab=tokenizer.size, context=64, layers=1, width=16, heads=2))
    return LanguageModel(model, tokenizer, ChatTemplate.load("chatml", tokenizer))


@pytest.mark.parametrize("kind", find.names("evals"))
@pytest.mark.parametrize("records", [synthetic.texts(5, seed=2), synthetic.conversations(5, seed=3)])
def test_contract(kind, records, lm):
    """A number that is not finite, an unnamed setting or a missing sample could not be compared or checked later."""
    module = find.module("evals", kind)
    first, second = (module.run(lm, records, module.Config()) for _ in range(2))
    assert first == second
    assert first.kind == kind
    assert first.metrics and all(math.isfinite(value) for value in first.metrics.values())
    assert len(first.samples) == len(records)
    assert all(sample["where"] for sample in first.samples)
    assert first.settings
