"""Tiny language models of every kind that generates, with a tokenizer that makes several pieces of a word."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from lmcraft.core import find
from lmcraft.generate.language_model import LanguageModel
from lmcraft.models import model as models
from lmcraft.text.tokenizer import SPECIALS, Tokenizer

TEXT = "the cat sat on the mat and the dog sat on the cat"
SMALL = {"context": 48, "layers": 3, "width": 32, "heads": 4}
VARIANTS = {
    "encoder": {"bert": {"placement": "post", "positions": "learned", "embedding_norm": True}, "pre": {}},
    "decoder": {"gpt2": {"positions": "learned", "norm": "layernorm", "mlp": "gelu"}, "llama": {"kv_heads": 2}},
    "encdec": {"2017": {"placement": "post"}, "t5": {"positions": "relative", "norm": "rmsnorm"}},
    "rnn": {"lstm": {}, "plain": {"cell": "rnn", "residual": False, "tied": False}},
    "seq2seq": {"attends": {}, "without": {"attention": "none"}},
}  # fmt: skip
KINDS = [
    pytest.param(kind, settings, id=f"{kind}-{name}")
    for kind in find.names("models")
    for name, settings in VARIANTS.get(kind, {}).items()
]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test with `kind` and `settings` runs for every kind of model that says tokens."""
    if {"kind", "settings"} <= set(metafunc.fixturenames) and not metafunc.definition.get_closest_marker(
        "parametrize"
    ):
        metafunc.parametrize("kind,settings", KINDS)


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return Tokenizer.train([TEXT] * 3, 276, (*SPECIALS, "<|mask|>"))


@pytest.fixture
def language_model(tokenizer: Tokenizer) -> Callable[..., LanguageModel]:
    """Builds a model of a kind with every parameter away from its initial constant."""
    torch.set_num_threads(1)

    def make(kind: str, **settings: object) -> LanguageModel:
        torch.manual_seed(0)
        schema = find.module("models", kind).Config
        sizes = {name: value for name, value in SMALL.items() if name in schema.model_fields}
        model = models.build(schema(vocab=tokenizer.size, **sizes | settings)).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
        return LanguageModel(model, tokenizer, None)

    return make
