"""Masking: how many, which, and with what; the same again for the same seed."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from lmcraft.core.errors import UserError
from lmcraft.data import synthetic
from lmcraft.data.batch import IGNORE
from lmcraft.data.loader import Loader
from lmcraft.data.tokens import write
from lmcraft.models import decoder, encoder, model
from lmcraft.stages import mask
from lmcraft.text.chat import ChatTemplate
from lmcraft.text.special import MASK
from lmcraft.text.tokenizer import SPECIALS, Tokenizer

RECORDS = synthetic.texts(200, seed=1)
WIDTH = 40


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    torch.set_num_threads(1)
    return Tokenizer.train([r.text for r in RECORDS], 300, (*SPECIALS, MASK))


def prepared(tokenizer: Tokenizer, tmp_path, **settings) -> tuple[mask.Mask, Loader]:
    stage = mask.build(mask.Config(**settings))
    stage.ready(
        model.build(encoder.Config(vocab=tokenizer.size, layers=1, width=8, heads=1)), RECORDS, tokenizer
    )
    made = stage.documents(RECORDS, tokenizer, ChatTemplate.load("chatml", tokenizer), WIDTH, Counter())
    shard = write(tmp_path / "shard", made, tokenizer.size, {}, Counter())
    return stage, Loader(shard, WIDTH, 16, seed=0, finish=stage.finish)


@pytest.mark.parametrize("whole_words", [False, True])
def test_shares_of_what_is_hidden(tokenizer, tmp_path, whole_words):
    """A difference would mean another objective than BERT's 15 %, of which 80/10/10 (trap 29)."""
    _, loader = prepared(tokenizer, tmp_path, whole_words=whole_words)
    counts: Counter = Counter()
    for _ in range(40):
        batch = loader.next()
        ordinary = (batch.segments_BT != 0) & (batch.targets_BT != IGNORE)
        plain = torch.tensor([*tokenizer.special_ids])
        counts["all"] += int(((batch.segments_BT != 0) & ~torch.isin(batch.tokens_BT, plain)).sum())
        chosen, shown = batch.targets_BT[ordinary], batch.tokens_BT[ordinary]
        counts["all"] += int((shown == tokenizer.mask).sum())
        counts["chosen"] += len(chosen)
        counts["masked"] += int((shown == tokenizer.mask).sum())
        counts["kept"] += int((shown == chosen).sum())
        assert not torch.isin(chosen, plain).any()
        assert not torch.isin(shown[shown != tokenizer.mask], plain).any()
    assert counts["chosen"] / counts["all"] == pytest.approx(0.15, abs=0.01)
    assert counts["masked"] / counts["chosen"] == pytest.approx(0.8, abs=0.02)
    assert counts["kept"] / counts["chosen"] == pytest.approx(0.1, abs=0.02)


def test_the_same_place_hides_the_same(tokenizer, tmp_path):
    """A difference would mean that a resumed run is another run; no difference between places, that it learns less."""
    _, loader = prepared(tokenizer, tmp_path)
    first = loader.batch([0, 1, 2], [7, 8, 9])
    state = np.random.get_state()[1].tolist(), torch.get_rng_state()
    again = loader.batch([0, 1, 2], [7, 8, 9])
    assert torch.equal(first.tokens_BT, again.tokens_BT) and torch.equal(first.targets_BT, again.targets_BT)
    assert np.random.get_state()[1].tolist() == state[0] and torch.equal(torch.get_rng_state(), state[1])
    alone = loader.batch([1], [8])
    assert torch.equal(alone.tokens_BT[0], first.tokens_BT[1])
    assert not torch.equal(loader.batch([0], [1]).targets_BT, loader.batch([0], [2]).targets_BT)


def test_nothing_is_lost(tokenizer, tmp_path):
    """A difference would mean that a model learns other words than those of the text."""
    _, loader = prepared(tokenizer, tmp_path)
    plain = Loader(loader.tokens, WIDTH, 16, seed=0)
    for row in range(5):
        hidden, whole = loader.batch([row], [3]), plain.batch([row])
        restored = torch.where(hidden.targets_BT != IGNORE, hidden.targets_BT, hidden.tokens_BT)
        assert torch.equal(restored, whole.tokens_BT)


def test_words_are_hidden_whole(tokenizer, tmp_path):
    """A failure would mean that a word's other half gives it away although `whole_words` was asked for."""
    stage, loader = prepared(tokenizer, tmp_path, whole_words=True, masked=1.0, random=0.0)
    several = 0
    for seed in range(30):
        batch = loader.batch([0], [seed])
        plain = Loader(loader.tokens, WIDTH, 16, seed=0).batch([0])
        hidden = (batch.targets_BT != IGNORE)[0].tolist()
        ids = plain.tokens_BT[0].tolist()
        for place in range(1, len(ids)):
            inside = not stage.starts[ids[place]] and ids[place - 1] not in tokenizer.special_ids
            if inside:
                assert hidden[place] == hidden[place - 1]
                several += hidden[place]
    assert several > 10


def test_every_row_has_something_to_guess(tokenizer):
    """A failure would stop training at a batch of very short texts."""
    stage = mask.build(mask.Config(share=0.01))
    stage.mask, stage.ordinary = tokenizer.mask, np.arange(10, 200)
    chosen = stage._chosen(np.array([5, 6, 7]), np.array([False, True, True]), np.random.default_rng(0))
    assert len(chosen) == 1 and chosen[0] in (1, 2)


def test_what_cannot_be_trained_so(tokenizer):
    """A failure would mean that a decoder is trained with the answer in sight, or without a token for hidden words."""
    stage = mask.build(mask.Config())
    with pytest.raises(UserError, match="hidden words"):
        stage.ready(model.build(decoder.Config(vocab=300, layers=1, width=8, heads=1)), RECORDS, tokenizer)
    without = Tokenizer.train([r.text for r in RECORDS], 300)
    with pytest.raises(UserError, match="no mask token"):
        stage.ready(model.build(encoder.Config(vocab=300, layers=1, width=8, heads=1)), RECORDS, without)
    assert without.extended([MASK]).mask == without.size
