"""The language model as people use it: load, save, generate, chat, score, logits, and clear mistakes."""

from __future__ import annotations

import json

import pytest
import torch

from lmcraft.core.errors import UserError
from lmcraft.core.run import Run
from lmcraft.data import synthetic
from lmcraft.data.records import parts
from lmcraft.generate.language_model import LanguageModel
from lmcraft.generate.sampling import Sampling
from lmcraft.models import decoder, model
from lmcraft.text.chat import ChatTemplate
from lmcraft.text.tokenizer import Tokenizer

QUESTION = [{"role": "user", "content": "What is 2 plus 3?"}]


@pytest.fixture(scope="module")
def tokenizer():
    torch.set_num_threads(1)
    return Tokenizer.train([text for r in synthetic.conversations(40) for _, text in parts(r)], 320)


def make(tokenizer, template: str | None = "chatml") -> LanguageModel:
    torch.manual_seed(0)
    net = model.build(decoder.Config(vocab=tokenizer.size, context=64, layers=2, width=32, heads=2))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return LanguageModel(net.eval(), tokenizer, ChatTemplate.load(template, tokenizer) if template else None)


@pytest.fixture
def lm(tokenizer):
    return make(tokenizer)


def test_saved_and_loaded_it_says_the_same(lm, tmp_path):
    """A difference would mean that what is served is not what was trained."""
    lm.save(tmp_path / "model")
    back = LanguageModel.load(tmp_path / "model")
    assert back.chat(QUESTION, max_new_tokens=12, seed=3) == lm.chat(QUESTION, max_new_tokens=12, seed=3)
    assert back.generate("The cat", max_new_tokens=12) == lm.generate("The cat", max_new_tokens=12)
    assert back.engine.stop_ids == lm.engine.stop_ids
    assert back.tokenizer.encode("What is 7 plus 8?\n") == lm.tokenizer.encode("What is 7 plus 8?\n")
    assert torch.equal(back.logits([1, 2, 3]), lm.logits([1, 2, 3]))


def test_generation_config_names_every_stop_token(lm, tmp_path):
    """A failure would mean that other programs let the model run on after its turn (trap 4)."""
    lm.save(tmp_path)
    said = json.loads((tmp_path / "generation_config.json").read_text())
    assert set(said["eos_token_id"]) == {lm.tokenizer.eos, lm.tokenizer.end_of_turn}
    assert said["bos_token_id"] == lm.tokenizer.bos and said["pad_token_id"] == lm.tokenizer.pad


def test_text_begins_with_one_bos(lm):
    """A failure would mean that generation and perplexity begin otherwise than training (trap 5)."""
    assert lm.ids("hello") == [lm.tokenizer.bos, *lm.tokenizer.encode("hello")]


def test_a_chat_is_prompted_by_the_template(lm):
    """A failure would mean that the model is asked in another form than it was trained on."""
    assert lm.prompt(QUESTION) == lm.template.prompt(QUESTION)
    direct = lm.engine.generate([lm.template.prompt(QUESTION)], Sampling(seed=2, max_new_tokens=9))[0]
    assert lm.chat(QUESTION, seed=2, max_new_tokens=9) == direct


def test_streaming_says_the_same(lm):
    """A failure would mean that the chat on the screen is not the answer that is stored."""
    sampling = Sampling(seed=4, max_new_tokens=15)
    pieces = list(lm.stream(lm.prompt(QUESTION), sampling))
    assert pieces[-1].completion == lm.chat(QUESTION, seed=4, max_new_tokens=15)
    assert "".join(piece.text for piece in pieces) == pieces[-1].completion.text


def test_scores_and_logits_agree(lm):
    """A failure would mean that two ways to ask the same question give two answers."""
    score = lm.score("What is 2 plus", " 3?")
    before, after = lm.ids("What is 2 plus"), lm.tokenizer.encode(" 3?")
    logprobs_TV = lm.logits([*before, *after]).log_softmax(-1)
    expected = [float(logprobs_TV[len(before) + n - 1, token]) for n, token in enumerate(after)]
    assert score.tokens == pytest.approx(expected, abs=1e-5)
    assert lm.logits([5, 6]).shape == (2, lm.tokenizer.size) and lm.logits([5]).dtype == torch.float32


def test_a_base_model_does_not_chat(tokenizer, tmp_path):
    """A failure would mean that a model without template gets a made-up one and talks nonsense."""
    base = make(tokenizer, template=None)
    with pytest.raises(UserError, match="base model"):
        base.chat(QUESTION)
    base.save(tmp_path)
    assert LanguageModel.load(tmp_path).template is None
    assert base.engine.stop_ids == make(tokenizer).engine.stop_ids


@pytest.mark.parametrize("template", ["chatml", "plain"])
def test_templates_travel_with_the_model(tokenizer, tmp_path, template):
    """A failure would mean that a model is asked in another form after it has been copied."""
    make(tokenizer, template).save(tmp_path)
    assert LanguageModel.load(tmp_path).prompt(QUESTION) == make(tokenizer, template).prompt(QUESTION)


def test_places_without_a_model_are_told(tmp_path):
    """A failure would mean a traceback for a typing error, or for a run that has not ended."""
    with pytest.raises(UserError) as caught:
        LanguageModel.load(tmp_path / "nowhere")
    assert "nowhere" in str(caught.value)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no model here"):
        LanguageModel.load(tmp_path / "empty")
    Run.create(tmp_path / "run", "stage: {kind: sft}\n", [], 0)
    with pytest.raises(UserError, match="no model yet"):
        LanguageModel.load(tmp_path / "run")
