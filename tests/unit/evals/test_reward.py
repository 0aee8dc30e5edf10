"""The numbers of a reward model: ceilings, calibration and ties by hand, and on votes whose chances are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lmcraft.core.errors import UserError
from lmcraft.data.records import Message, Pair, Text
from lmcraft.evals import reward
from lmcraft.evals.reward import calibration, ceiling
from lmcraft.generate.language_model import LanguageModel
from lmcraft.models import decoder, heads
from lmcraft.models import model as models
from lmcraft.text.chat import ChatTemplate
from lmcraft.text.tokenizer import Tokenizer


def pair(chosen: str, rejected: str, prompt: str = "q", **more) -> Pair:
    """A preference of plain strings."""
    return Pair(
        (Message("user", prompt),), (Message("assistant", chosen),), (Message("assistant", rejected),), **more
    )


def test_calibration_by_hand():
    """A difference would mean that a reliability table shows other pairs than its bins say."""
    sure = np.array([0.55, 0.58, 0.95, 1.0, 0.5])
    right = np.array([1.0, 0.0, 1.0, 1.0, 0.5])
    rows, error = calibration(sure, right, np.array([1.0, 1, 1, 1, 2]), 5)
    assert [row[:3] for row in rows] == [[0.5, 0.6, 3], [0.9, 1.0, 2]]
    assert rows[0][3:] == pytest.approx([(0.55 + 0.58 + 1.0) / 4, 0.5])
    assert error == pytest.approx(4 / 6 * abs(2.13 / 4 - 0.5) + 2 / 6 * abs(0.975 - 1))


def test_true_chances_are_calibrated():
    """An error above 0.03 would mean that votes drawn from the model's own chances look badly calibrated."""
    draw = np.random.default_rng(0)
    chance = draw.uniform(0.5, 1, 20_000)
    right = (draw.random(20_000) < chance).astype(float)
    assert calibration(chance, right, np.ones(20_000), 10)[1] < 0.03
    boast = calibration((chance + 1) / 2, right, np.ones(20_000), 10)[1]
    assert boast > 0.1


def test_the_ceiling_is_what_raters_agree_on():
    """A failure would mean that accuracy is compared with 100 %, which no model can reach."""
    votes = [pair("a", "b", weight=0.7), pair("b", "a", weight=0.3), pair("c", "d")]
    assert ceiling(votes)[0] == pytest.approx(0.7)
    three = [pair("a", "b")] * 2 + [pair("b", "a")] + [pair("a", "b", prompt="r"), pair("a", "b", prompt="r")]
    assert ceiling(three)[0] == pytest.approx(4 / 5)
    assert ceiling([pair("a", "b"), pair("a", "c")]) == (None, "unknown: no pair was judged twice")
    distances = [pair("a", "b", margin=1.0), pair("a", "c", margin=2.0)]  # of whatever scale: no chances
    assert ceiling(distances)[0] is None
    counted = [
        pair("a", "b", weight=2 / 3, agreement=2 / 3), pair("b", "a", weight=1 / 3, agreement=1 / 3),
        pair("a", "c", agreement=1.0),
    ]  # fmt: skip
    assert ceiling(counted) == (
        pytest.approx((2 / 3 + 1) / 2),
        "from 2 pairs that were judged more than once",
    )


@pytest.fixture
def lm() -> LanguageModel:
    torch.manual_seed(0)
    tokenizer = Tokenizer.train(["yes no maybe"], 300)
    base = models.build(decoder.Config(vocab=tokenizer.size, layers=1, width=16, heads=2, context=64))
    model = heads.around(base, task="score", pooling="last", gain=3.0, bias=1.0)
    return LanguageModel(model, tokenizer, ChatTemplate.load("chatml", tokenizer))


def test_swapped_answers_are_exactly_mirrored(lm):
    """A failure would mean that the order of answers changes a reward (position bias)."""
    pairs = [pair("yes", "no"), pair("maybe maybe maybe", "yes yes"), pair("no no", "maybe")]
    straight = reward.run(lm, pairs, reward.Config())
    turned = reward.run(
        lm, [pair(p.rejected[0].content, p.chosen[0].content) for p in pairs], reward.Config()
    )
    assert turned.metrics["accuracy"] == pytest.approx(1 - straight.metrics["accuracy"])
    assert turned.metrics["score_gap"] == pytest.approx(-straight.metrics["score_gap"], abs=1e-6)
    for one, other in zip(straight.samples, turned.samples, strict=True):
        assert (one["chosen"], one["rejected"]) == (other["rejected"], other["chosen"])
    same = reward.run(lm, [pair("yes", "yes")], reward.Config())
    assert same.metrics["accuracy"] == 0.5 and "length_correlation" not in same.metrics


def test_calibration_is_that_of_the_scores_without_their_scale(lm):
    """A failure would mean that normalising a reward model for PPO makes it look badly calibrated."""
    pairs = [pair("yes", "no"), pair("maybe maybe maybe", "yes yes")]
    scaled = reward.run(lm, pairs, reward.Config())
    lm.model.config = lm.model.config.model_copy(update={"gain": 1.0, "bias": 0.0})
    plain = reward.run(lm, pairs, reward.Config())
    assert scaled.metrics["ece"] == pytest.approx(plain.metrics["ece"], abs=1e-5)
    assert scaled.samples[0]["chosen"] == pytest.approx(3 * plain.samples[0]["chosen"] + 1, abs=1e-5)


def test_refusals(lm):
    """A failure would mean a traceback."""
    with pytest.raises(UserError, match="needs preferences"):
        reward.run(lm, [Text("a")], reward.Config())
    with pytest.raises(UserError, match="no preferences"):
        reward.run(lm, [], reward.Config())
    lm.model = lm.model.body
    with pytest.raises(UserError, match="does not score"):
        reward.run(lm, [pair("a", "b")], reward.Config())
