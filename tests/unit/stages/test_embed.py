"""Contrastive pairs: the loss by hand, groups that no micro-batch parts, partners that are no wrong answers."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
import torch.nn.functional as F

from lmcraft.core.errors import UserError
from lmcraft.data import synthetic
from lmcraft.data.batch import IGNORE, Batch
from lmcraft.data.loader import Loader
from lmcraft.data.records import Parallel, Text
from lmcraft.data.tokens import write
from lmcraft.layers.source import Source
from lmcraft.models import encoder, heads, model
from lmcraft.stages import embed
from lmcraft.text.chat import ChatTemplate
from lmcraft.text.tokenizer import Tokenizer

ROWS = [Parallel(r.text[:30], r.text[30:55], r.where) for r in synthetic.texts(20, seed=1)]
WIDTH = 48


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    torch.set_num_threads(1)
    return Tokenizer.train([text for row in ROWS for text in (row.source, row.target)], 300)


def prepared(tokenizer, tmp_path, rows=ROWS, **settings):
    stage = embed.build(embed.Config(**settings))
    torch.manual_seed(0)
    net = model.build(encoder.Config(vocab=tokenizer.size, context=WIDTH, layers=1, width=16, heads=2))
    net = stage.ready(net, rows, tokenizer).double().eval()
    made = stage.documents(rows, tokenizer, ChatTemplate.load("chatml", tokenizer), WIDTH, Counter())
    shard = write(tmp_path / "shard", made, tokenizer.size, {}, Counter())
    return stage, net, Loader(shard, WIDTH, 8, seed=0, pack=False, finish=stage.finish)


def vectors(net, tokens_BT, segments_BT):
    hidden_BTD = net.body(tokens_BT, segments_BT)
    real_BT1 = segments_BT[..., None].double()
    return F.normalize((hidden_BTD * real_BT1).sum(1) / real_BT1.sum(1), dim=-1)


def test_the_loss_by_hand(tokenizer, tmp_path):
    """A difference would mean another objective than the one that is described."""
    stage, net, loader = prepared(tokenizer, tmp_path, group=4, temperature=0.1)
    batch = loader.batch([0, 1, 2, 3, 4, 5, 6])
    left_BD = vectors(net, batch.tokens_BT, batch.segments_BT)
    right_BD = vectors(net, batch.source.tokens_BS, batch.source.segments_BS)
    expected = 0.0
    for part in (slice(0, 4), slice(4, 7)):
        scores_GG = left_BD[part] @ right_BD[part].T / 0.1
        own = torch.arange(len(scores_GG))
        expected += F.cross_entropy(scores_GG, own, reduction="sum") / 2
        expected += F.cross_entropy(scores_GG.T, own, reduction="sum") / 2
    torch.testing.assert_close(stage.loss(net, batch), expected, rtol=1e-10, atol=0)
    assert batch.count == 7


@pytest.mark.parametrize("rows", [1, 3, 4, 5, 8, 100])
def test_micro_batches_change_nothing(tokenizer, tmp_path, rows):
    """A difference would mean that a machine with less memory trains with easier wrong answers."""
    stage, net, loader = prepared(tokenizer, tmp_path, group=4)
    batch = loader.batch(list(range(14)))
    parts = list(batch.split(rows))
    assert all(len(part.tokens_BT) % 4 == 0 for part in parts[:-1])
    assert sum(part.count for part in parts) == batch.count == 14
    total = torch.stack([stage.loss(net, part) for part in parts]).sum()
    torch.testing.assert_close(total, stage.loss(net, batch), rtol=1e-10, atol=0)


def test_the_same_text_is_no_wrong_answer(tokenizer, tmp_path):
    """A failure would mean that a model is punished for finding the right text."""
    twice = [*ROWS[:3], Parallel(ROWS[1].source + " too", ROWS[1].target)]
    stage, net, loader = prepared(tokenizer, tmp_path, twice, group=4)
    batch = loader.batch([0, 1, 2, 3])
    left_BD = vectors(net, batch.tokens_BT, batch.segments_BT)
    right_BD = vectors(net, batch.source.tokens_BS, batch.source.segments_BS)
    scores_GG = left_BD @ right_BD.T / 0.05
    scores_GG[1, 3] = scores_GG[3, 1] = float("-inf")
    own = torch.arange(4)
    expected = (
        F.cross_entropy(scores_GG, own, reduction="sum") + F.cross_entropy(scores_GG.T, own, reduction="sum")
    ) / 2
    torch.testing.assert_close(stage.loss(net, batch), expected, rtol=1e-10, atol=0)


def test_padding_has_no_effect(tokenizer, tmp_path):
    """A difference would mean that the loss depends on the longest text of a batch."""
    stage, net, loader = prepared(tokenizer, tmp_path)
    batch = loader.batch([0, 1, 2])

    def wider(tensor, value=0):
        return F.pad(tensor, (0, 5), value=value)

    source = Source(wider(batch.source.tokens_BS), wider(batch.source.segments_BS))
    padded = Batch(
        wider(batch.tokens_BT), wider(batch.targets_BT, IGNORE), wider(batch.segments_BT), source=source
    )
    torch.testing.assert_close(stage.loss(net, padded), stage.loss(net, batch), rtol=1e-10, atol=0)


def test_heads_and_refusals(tokenizer):
    """A failure would mean that MiniLM loses its head, or a traceback for data of another shape."""
    stage = embed.build(embed.Config())
    net = model.build(encoder.Config(vocab=tokenizer.size, layers=1, width=8, heads=1))
    minilm = heads.around(net, task="embedding", pooling="cls")
    assert stage.ready(minilm, ROWS, tokenizer) is minilm
    with pytest.raises(UserError, match="trained on pairs"):
        stage.ready(minilm, [Text("x")], tokenizer)
