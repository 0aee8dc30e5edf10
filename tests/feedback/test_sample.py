"""Answers drawn from models: seeded, dealt out, each with where it came from."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lmcraft.core.errors import UserError
from lmcraft.data import synthetic
from lmcraft.data.records import Message, Prompt, parts
from lmcraft.feedback import sample
from lmcraft.generate.language_model import LanguageModel
from lmcraft.generate.sampling import Sampling
from lmcraft.models import decoder, model
from lmcraft.text.chat import ChatTemplate
from lmcraft.text.tokenizer import Tokenizer

PROMPTS = [Prompt((Message("user", text),)) for text in ("What is 2 plus 3?", "The cat", "Who?")]
SAMPLING = Sampling(max_new_tokens=8, temperature=1.0, seed=4)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A model that was tuned to chat and one that only continues, both of random weights."""
    torch.set_num_threads(1)
    tokenizer = Tokenizer.train([text for r in synthetic.conversations(40) for _, text in parts(r)], 320)
    folder, places = tmp_path_factory.mktemp("models"), []
    for name, template in (("chat", "chatml"), ("base", None)):
        torch.manual_seed(len(name))
        net = model.build(decoder.Config(vocab=tokenizer.size, context=64, layers=1, width=32, heads=2))
        found = ChatTemplate.load(template, tokenizer) if template else None
        LanguageModel(net.eval(), tokenizer, found).save(folder / name)
        places.append(str(folder / name))
    return places


def test_answers_are_dealt_out_and_say_where_they_came_from(models: list[str]) -> None:
    """If this failed, a vote could not be followed back to the model that earned it."""
    drawn = sample.draw(models, PROMPTS, 3, SAMPLING)
    assert len(drawn.items) == 3 and drawn.alike == 0
    for item, prompt in zip(drawn.items, PROMPTS, strict=True):
        assert item.prompt == prompt.prompt
        assert [answer.model for answer in item.answers] == [models[0], models[0], models[1]]
        seeds = {answer.source["seed"] for answer in item.answers}
        assert len(seeds) == 3 and all(len(answer.source["digest"]) == 64 for answer in item.answers)


def test_the_same_command_draws_the_same(models: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """If this failed, going on after an interruption would queue other answers beside the first ones."""
    first = sample.draw(models, PROMPTS, 2, SAMPLING).items
    monkeypatch.setattr(sample, "BATCH", 1)
    again = sample.draw(models, PROMPTS[::-1], 2, SAMPLING).items[::-1]
    assert [item.fingerprint() for item in first] == [item.fingerprint() for item in again]
    other = sample.draw(models, PROMPTS, 2, SAMPLING.model_copy(update={"seed": 5})).items
    assert [item.fingerprint() for item in first] != [item.fingerprint() for item in other]


def test_answers_that_are_all_alike_are_left_out_and_counted(models: list[str]) -> None:
    """If this failed, people would be asked to choose between two equal texts."""
    greedy = SAMPLING.model_copy(update={"temperature": 0.0})
    drawn = sample.draw(models[:1], [*PROMPTS, PROMPTS[0]], 2, greedy)
    assert (len(drawn.items), drawn.alike) == (0, 3)
    assert len(sample.draw(models[:1], PROMPTS, 1, greedy).items) == 3


def test_what_cannot_be_asked_is_told(models: list[str], tmp_path: Path) -> None:
    """If this failed, a model would be left out without a word."""
    with pytest.raises(UserError, match="1 answers cannot come from 2 models"):
        sample.draw(models, PROMPTS, 1, SAMPLING)
    with pytest.raises(UserError):
        sample.draw([str(tmp_path / "none")], PROMPTS, 1, SAMPLING)
