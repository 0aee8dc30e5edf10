"""Every evaluation keeps the contract: finite numbers, stated settings, a sample for each record, the same twice."""

from __future__ import annotations

import math

import pytest
import torch

from lmcraft.core import find
from lmcraft.data import synthetic
from lmcraft.data.records import parts
from lmcraft.generate.language_model import LanguageModel
from lmcraft.models import decoder, encdec
from lmcraft.models import model as models
from lmcraft.text.chat import ChatTemplate
from lmcraft.text.tokenizer import Tokenizer

# What each evaluation measures: kind of model, and records of each sort that it takes. A new one adds its line here.
MEASURES = {
    "perplexity": ("decoder", [synthetic.texts(5, seed=2), synthetic.conversations(5, seed=3)]),
    "bleu": ("encdec", [synthetic.copies(5, seed=2, longest=6), synthetic.reversals(5, seed=3, longest=6)]),
}
MODELS = {
    "decoder": decoder.Config(context=64, layers=1, width=16, heads=2),
    "encdec": encdec.Config(layers=1, width=16, heads=2),
}
CASES = [(kind, model, records) for kind, (model, sorts) in MEASURES.items() for records in sorts]


@pytest.fixture(scope="module")
def language_models() -> dict[str, LanguageModel]:
    torch.manual_seed(0)
    records = synthetic.conversations(40, seed=1)
    tokenizer = Tokenizer.train((text for record in records for _, text in parts(record)), 320)
    template = ChatTemplate.load("chatml", tokenizer)
    return {
        name: LanguageModel(
            models.build(config.model_copy(update={"vocab": tokenizer.size})), tokenizer, template
        )
        for name, config in MODELS.items()
    }


def test_every_evaluation_is_measured_here() -> None:
    """If this failed, a new evaluation would not be held to the contract."""
    assert set(find.names("evals")) == set(MEASURES)


@pytest.mark.parametrize(("kind", "model", "records"), CASES)
def test_contract(kind, model, records, language_models):
    """A number that is not finite, an unnamed setting or a missing sample could not be compared or checked later."""
    module, lm = find.module("evals", kind), language_models[model]
    first, second = (module.run(lm, records, module.Config()) for _ in range(2))
    assert first == second
    assert first.kind == kind
    assert first.metrics and all(math.isfinite(value) for value in first.metrics.values())
    assert len(first.samples) == len(records)
    assert all(sample["where"] for sample in first.samples)
    assert first.settings
