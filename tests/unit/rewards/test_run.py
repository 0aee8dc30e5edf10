"""A reward model as the reward: it reads the ids that were sampled, up to the last of them, whoever is beside it."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from lmcraft.core.errors import UserError
from lmcraft.data.loader import Loader
from lmcraft.data.records import Message, Prompt, Where
from lmcraft.data.tokens import write
from lmcraft.generate import scoring
from lmcraft.generate.language_model import LanguageModel
from lmcraft.models import decoder, heads, weights
from lmcraft.models import model as models
from lmcraft.rewards import reward, run
from lmcraft.rewards.reward import Answer
from lmcraft.stages import ppo
from lmcraft.text.tokenizer import Tokenizer
from lmcraft.train import loop

CONTEXT = 12


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    torch.set_num_threads(1)
    return Tokenizer.train(["what is it? it is good"], 300)


@pytest.fixture(scope="module")
def judge(tokenizer, tmp_path_factory):
    """A reward model in a folder, and that model."""
    torch.manual_seed(0)
    base = models.build(decoder.Config(vocab=tokenizer.size, layers=1, width=16, heads=2, context=CONTEXT))
    model = heads.around(base, task="score", pooling="last", dropout=0.5)
    scoring.normalise(model, [[5, 6], [7, 8, 9], [10]])
    folder = tmp_path_factory.mktemp("judge")
    weights.save(model, folder)
    tokenizer.save(folder)
    return folder, model


ANSWERS = [Answer([5, 1], [9, 2], "a"), Answer([5, 1], [9], "a"), Answer([3], [8, 8, 4, 7, 2, 6, 1], "b")]


def test_it_scores_what_was_sampled(judge, tokenizer):
    """A failure would mean that a reward is that of padding, of the prompt alone, or of other words (traps 34, 35)."""
    folder, model = judge
    found = run.build(run.Config(path=str(folder)), tokenizer)(ANSWERS)
    model.eval()
    for answer, score in zip(ANSWERS, found, strict=True):
        ids = torch.tensor([[*answer.prompt_ids, *answer.ids]])
        with torch.no_grad():
            last = model.output(model.body(ids)[0, -1]).item()
        assert score == pytest.approx(last * model.config.gain + model.config.bias, abs=1e-5)


@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_it_scores_beginnings(judge, tokenizer, pooling, tmp_path):
    """In one reading or in many; a failure would mean that tokens are credited with another's reward."""
    folder, model = judge
    given = run.build(run.Config(path=str(folder)), tokenizer)
    if pooling == "mean":
        given.reader.model.config = model.config.model_copy(update={"pooling": "mean"})
    found = given.along(ANSWERS, tokenizer)
    for answer, scores in zip(ANSWERS, found, strict=True):
        begun = [Answer(answer.prompt_ids, answer.ids[:k], "") for k in range(len(answer.ids))]
        assert scores == pytest.approx(given(begun), abs=1e-5)
    longest = Answer([5, 1], list(range(1, 2 * CONTEXT)), "")
    if pooling == "last":
        (scores,) = given.along([longest], tokenizer)
        assert len(scores) == len(longest.ids) and scores[-1] == pytest.approx(
            given([Answer([5, 1], longest.ids[:-1], "")])[0], abs=1e-5
        )


def test_twice_is_the_same(judge, tokenizer):
    """A failure would mean that dropout judges too (trap 41)."""
    given = run.build(run.Config(path=str(judge[0])), tokenizer)
    assert given(ANSWERS) == given(ANSWERS)
    assert given(ANSWERS[::-1]) == pytest.approx(given(ANSWERS)[::-1], abs=1e-6)


def test_of_what_is_too_long_the_end_is_read(judge, tokenizer):
    """A failure would mean that a long prompt hides the answer, or stops training."""
    given = run.build(run.Config(path=str(judge[0])), tokenizer)
    prompt = [5, 6, 7, 8] * CONTEXT
    (long,) = given([Answer(prompt, [4, 2], "")])
    (kept,) = given([Answer(prompt[2 - CONTEXT :], [4, 2], "")])
    (other,) = given([Answer(prompt[2 - CONTEXT :], [2, 4], "")])
    assert long == pytest.approx(kept, abs=1e-6) and abs(long - other) > 1e-3


def test_what_begins_a_text_stays_when_it_is_cut(judge, tokenizer):
    """A failure would mean that long answers are scored as a reward model was never shown a text: without bos."""
    given = run.build(run.Config(path=str(judge[0])), tokenizer)
    prompt, bos = [5, 6, 7, 8] * CONTEXT, tokenizer.beginning
    assert bos
    (long,) = given([Answer([*bos, *prompt], [4, 2], "")])
    (kept,) = given([Answer([*bos, *prompt[2 + len(bos) - CONTEXT :]], [4, 2], "")])
    assert long == pytest.approx(kept, abs=1e-6)


def test_its_weight_is_applied_once(judge, tokenizer):
    """A failure would mean that a reward model counts for more, or less, than was asked."""
    plain, double = (
        reward.together([run.Config(path=str(judge[0]), weight=weight)], tokenizer) for weight in (1.0, 2.0)
    )
    assert double(ANSWERS) == pytest.approx([2 * score for score in plain(ANSWERS)], abs=1e-6)


@pytest.mark.parametrize("normalise", [True, False])
def test_ppo_brings_it_to_a_common_scale(judge, tokenizer, tmp_path, normalise):
    """A failure would mean that the weight of the penalty means another thing with every reward model (trap 36)."""
    folder, own = judge
    config = ppo.Config(
        reward=str(folder), normalise=normalise,
        rollout={"episodes": 128, "max_new_tokens": 6, "missing_eos": None, "temperature": 2.0},
    )  # fmt: skip
    stage = ppo.PPO(config)
    torch.manual_seed(1)
    policy = models.build(decoder.Config(vocab=tokenizer.size, layers=1, width=16, heads=2, context=CONTEXT))
    records = [
        Prompt((Message("user", word),), None, Where("words", n)) for n, word in enumerate("is it".split())
    ]
    policy = stage.ready(policy, records, tokenizer)
    documents = stage.documents(records, tokenizer, None, CONTEXT, Counter())
    shard = write(tmp_path / "shard", documents, tokenizer.size, {}, Counter())
    loader = stage.experience(
        Loader(shard, CONTEXT, 128, 0, pack=False), LanguageModel(policy, tokenizer, None), records,
        loop.Config(batch_size=128, precision="fp32"),
    )  # fmt: skip
    assert loader.prompts.read == 0  # nothing is used up
    loader.next()
    (model,) = (one.reader.model for one in loader.reward.judges)
    assert (model.config.gain != own.config.gain) == normalise
    if normalise:
        assert loader.facts["score"] == pytest.approx(0, abs=4 / 128**0.5)
        assert loader.facts["score_std"] == pytest.approx(1, abs=0.25)


def test_another_tokenizer_is_refused(judge):
    """A failure would mean that other words are judged than were written (checklist 18)."""
    other = Tokenizer.train(["nothing of the kind, or of that"], 290)
    with pytest.raises(UserError, match="another tokenizer"):
        run.build(run.Config(path=str(judge[0])), other)


def test_a_model_without_scores_is_refused(tokenizer, tmp_path):
    """A failure would mean that the logit of some word is the reward."""
    base = models.build(decoder.Config(vocab=tokenizer.size, layers=1, width=16, heads=2, context=CONTEXT))
    weights.save(base, tmp_path)
    tokenizer.save(tmp_path)
    with pytest.raises(UserError, match="does not score"):
        run.build(run.Config(path=str(tmp_path)), tokenizer)
    with pytest.raises(UserError):
        run.build(run.Config(path=str(tmp_path / "nowhere")), tokenizer)
