"""Reward models: the loss by hand, the known reward of an enumerable world, votes, padding, the scale at the end."""

from __future__ import annotations

import math
import statistics
from collections import Counter

import pytest
import torch

from lmcraft.core.errors import UserError
from lmcraft.data.batch import IGNORE, Batch
from lmcraft.data.loader import Loader
from lmcraft.data.records import Message, Pair, Text, Where
from lmcraft.data.tokens import write
from lmcraft.evals.reward import calibration
from lmcraft.generate.scoring import scores
from lmcraft.layers.source import Source
from lmcraft.models import decoder, encdec, heads, rnn
from lmcraft.models import model as models
from lmcraft.stages import reward
from lmcraft.text.chat import ChatTemplate
from lmcraft.text.tokenizer import Tokenizer

WORDS = "one two three four five six seven eight nine ten".split()


def said(text: str) -> tuple[Message, ...]:
    """An answer."""
    return (Message("assistant", text),)


PAIRS = [
    Pair((Message("user", w),), said(f"{w} {w}"), said(w[::-1]), Where("pairs.jsonl", n), n / 10, n / 2)
    for n, w in enumerate(WORDS, start=1)
]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    torch.set_num_threads(1)
    return Tokenizer.train([" ".join(WORDS)], 300)


def net(tokenizer, kind=decoder, **more):
    torch.manual_seed(0)
    return models.build(kind.Config(vocab=tokenizer.size, layers=1, width=16, context=48, **more))


def loader_of(stage, tokenizer, place, records=PAIRS):
    made = stage.documents(records, tokenizer, ChatTemplate.load("chatml", tokenizer), 48, Counter())
    return Loader(write(place, made, tokenizer.size, {}, Counter()), 48, 4, 0, pack=False)


@pytest.mark.parametrize("kind", [decoder, rnn])
def test_the_loss_is_its_formula(tokenizer, kind, tmp_path):
    """A difference would mean that margins or weights are lost, or that a score is read in another place (trap 34)."""
    stage = reward.build(reward.Config())
    model = stage.ready(net(tokenizer, kind), PAIRS, tokenizer).double()
    template = ChatTemplate.load("chatml", tokenizer)
    batch = (loader := loader_of(stage, tokenizer, tmp_path / "shard")).batch([*range(len(loader.rows))])
    total, right = 0.0, 0
    for pair in PAIRS:
        r = []
        for answer in (pair.chosen, pair.rejected):
            encoded = template.encode([*pair.prompt, *answer])
            last = max(p for p, trained in enumerate(encoded.trained) if trained)
            with torch.no_grad():
                hidden_BTD = model.body(torch.tensor([encoded.ids[: last + 1]]))
                r.append(float(model.output(hidden_BTD[0, -1])))
        total += pair.weight * math.log(1 + math.exp(-(r[0] - r[1] - pair.margin)))
        right += r[0] > r[1]
    assert float(stage.loss(model, batch).detach()) == pytest.approx(total, rel=1e-6)  # signals are float32
    assert batch.count == len(PAIRS)
    assert stage.told()["accuracy"] == pytest.approx(right / len(PAIRS))


def test_padding_and_its_tokens_change_nothing(tokenizer, tmp_path):
    """A failure would mean that a score depends on how long the other rows are (trap 34)."""
    stage = reward.build(reward.Config())
    model = stage.ready(net(tokenizer), PAIRS, tokenizer).double()
    batch = (loader := loader_of(stage, tokenizer, tmp_path / "shard")).batch([*range(len(loader.rows))])
    pad = torch.nn.functional.pad
    for fill in (0, 3, tokenizer.eos):
        padded = Batch(
            pad(batch.tokens_BT, (0, 5), value=fill), pad(batch.targets_BT, (0, 5), value=IGNORE),
            pad(batch.segments_BT, (0, 5)), batch.rows,
            Source(pad(batch.source.tokens_BS, (0, 7), value=fill), pad(batch.source.segments_BS, (0, 7))),
            1, batch.signals,
        )  # fmt: skip
        torch.testing.assert_close(stage.loss(model, padded), stage.loss(model, batch), rtol=1e-12, atol=0)


def fit(stage, model, batch, steps):
    """The lowest loss that L-BFGS finds."""
    optimizer = torch.optim.LBFGS(
        model.parameters(), max_iter=steps, history_size=20, line_search_fn="strong_wolfe", tolerance_grad=1e-11,
        tolerance_change=1e-16,
    )  # fmt: skip

    def closure():
        optimizer.zero_grad()
        loss = stage.loss(model, batch) / batch.count
        loss.backward()
        return loss

    optimizer.step(closure)


@pytest.fixture(scope="module")
def recovered(world, table):
    """A reward model of the world, from the exact chances of Bradley and Terry in both directions of every pair."""
    stage = reward.build(reward.Config())
    model = heads.Heads(heads.Config.model_construct(
        task="score", body=table(1, 0).config, pooling="last", pooler=False, dropout=0.0, gain=1.0, bias=0.0,
        longest=None, labels=(), normalized=True), table(1, 0)).double()  # fmt: skip
    torch.nn.init.ones_(model.output.weight)
    model.output.requires_grad_(False)
    fit(stage, model, world.both_ways(3), 300)
    return model


def found(world, model):
    """The scores of all answers, [N]."""
    with torch.no_grad():
        return model.head(model(world.tokens_NT, world.segments_NT)[:, 0])[:, 0]


def test_it_recovers_a_known_reward(world, recovered):
    """A failure would mean that what PPO climbs is not what the raters want, however many they are."""
    gap_PY = (found(world, recovered) - world.rewards_N).view(4, -1)
    assert float((gap_PY - gap_PY.mean(dim=1, keepdim=True)).abs().max()) < 1e-4


def test_it_is_calibrated_on_fresh_votes(world, recovered):
    """An ECE of 0.03 or more would mean that the model's chances are not those of the raters."""
    draw = torch.Generator().manual_seed(5)
    prompt = torch.randint(4, (20_000,), generator=draw) * 781
    left, right = (prompt + torch.randint(781, (20_000,), generator=draw) for _ in range(2))
    chance = torch.sigmoid(world.rewards_N[left] - world.rewards_N[right])
    votes = torch.rand(20_000, generator=draw, dtype=torch.float64) < chance
    r = found(world, recovered)
    gap = torch.where(votes, r[left] - r[right], r[right] - r[left]).numpy()
    sure = torch.sigmoid(torch.from_numpy(abs(gap))).numpy()
    right_N = (gap > 1e-3) + 0.5 * (abs(gap) <= 1e-3)
    rows, error = calibration(sure, right_N, abs(gap) * 0 + 1, 10)
    assert error < 0.03 and len(rows) > 3
    ceiling = float(torch.maximum(chance, 1 - chance).mean())
    assert float(right_N.mean()) == pytest.approx(ceiling, abs=0.015)  # as good as raters can be


def test_random_votes_teach_nothing(world):
    """More or less than 50 ± 3 % on fresh pairs would mean that what is held out leaks into training."""
    torch.manual_seed(0)
    shape = decoder.Config(vocab=6, layers=1, width=16, heads=2, context=8)
    stage = reward.build(reward.Config())
    model = stage.ready(models.build(shape), PAIRS, None)
    draw = torch.Generator().manual_seed(3)
    places = torch.randperm(781 * 4, generator=draw)
    train, fresh = places[:2000].view(2, -1), places[2000:3124].view(2, -1)
    order = [torch.rand(part.shape[1], generator=draw) < 0.5 for part in (train, fresh)]
    sides = [
        (torch.where(o, p[0], p[1]), torch.where(o, p[1], p[0]))
        for o, p in zip(order, (train, fresh), strict=True)
    ]
    batch = world.batch(*sides[0], torch.ones(1000))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        (stage.loss(model, batch) / batch.count).backward()
        optimizer.step()
    r = found(world, model)
    left, right = torch.randint(3124, (2, 8000), generator=draw)
    assert stage.told()["accuracy"] > 0.52  # the votes themselves it has begun to learn
    votes = torch.rand(8000, generator=draw) < 0.5
    accuracy = float(((r[left] > r[right]) == votes)[left != right].float().mean())
    assert 0.47 < accuracy < 0.53


def test_scores_end_on_a_common_scale(tokenizer, tmp_path):
    """A failure would mean that PPO begins with a reward model that is not normalised (trap 36)."""
    stage = reward.build(reward.Config())
    model = stage.ready(net(tokenizer), PAIRS, tokenizer)
    loader = loader_of(stage, tokenizer, tmp_path / "shard")
    before = stage.loss(model, loader.batch([0, 1])).detach()
    stage.finished(model, loader)
    batch = loader.batch([*range(len(loader.rows))])
    sides = ((batch.tokens_BT, batch.segments_BT), (batch.source.tokens_BS, batch.source.segments_BS))
    rows = [t[s != 0].tolist() for tokens, segments in sides for t, s in zip(tokens, segments, strict=True)]
    after = scores(model, rows)
    assert statistics.fmean(after) == pytest.approx(0, abs=1e-4)
    assert statistics.pstdev(after) == pytest.approx(1, abs=1e-4)
    again = reward.build(reward.Config())
    kept = model.output
    model = again.ready(model, PAIRS, tokenizer)  # training goes on without the scale
    assert model.output is kept and (model.config.gain, model.config.bias) == (1.0, 0.0)
    torch.testing.assert_close(again.loss(model, loader.batch([0, 1])).detach(), before)


def test_what_cannot_be_a_reward_model(tokenizer):
    """A failure would mean a traceback."""
    with pytest.raises(UserError, match="learns from preferences, not from text"):
        reward.build(reward.Config()).ready(net(tokenizer), [Text("a")], tokenizer)
    with pytest.raises(UserError, match="cannot be given this head"):
        reward.build(reward.Config()).ready(net(tokenizer, encdec), PAIRS, tokenizer)
