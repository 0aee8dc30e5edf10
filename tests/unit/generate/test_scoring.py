"""Scores of answers: read at the last token, whatever stands beside or behind it, on a common scale."""

from __future__ import annotations

import statistics

import pytest
import torch

from lmcraft.adapt import directory, entries, lora
from lmcraft.adapt.base import fingerprint
from lmcraft.core.errors import UserError
from lmcraft.data.records import Message
from lmcraft.generate.language_model import LanguageModel
from lmcraft.generate.reading import Reader, framed
from lmcraft.generate.scoring import along, normalise, raw, reads_on, scores
from lmcraft.models import decoder, encoder, heads, rnn, weights
from lmcraft.models import model as models
from lmcraft.text.chat import ChatTemplate
from lmcraft.text.tokenizer import Tokenizer

ROWS = [[5, 1, 9], [3], [7, 2, 2, 8, 1, 4], [5, 1, 9, 9], [6, 6]]


def net(schema=decoder, vocab=31, context=24):
    torch.manual_seed(0)
    base = models.build(schema.Config(vocab=vocab, layers=2, width=16, context=context, dropout=0.2))
    return heads.around(base, task="score", pooling="last")


@pytest.mark.parametrize("schema", [decoder, rnn, encoder])
def test_the_score_is_that_of_the_last_token(schema):
    """A difference would mean that a reward depends on padding: on how long the other answers are (trap 34)."""
    model = net(schema)
    found = scores(model, ROWS)
    for row, score in zip(ROWS, found, strict=True):
        tokens_BT = torch.tensor([row])
        with torch.no_grad():
            hidden_BTD = model.eval().body(tokens_BT)
            alone = float(model.output(hidden_BTD[0, -1]))
            for fill in ([0] * 5, [9, 3, 0, 1], [1] * 11):  # any padding, also ids that mean something
                padded_BT = torch.tensor([row + fill])
                segments_BT = torch.tensor([[1] * len(row) + [0] * len(fill)])
                score_BT = model.head(model(padded_BT, segments_BT))[..., 0]
                assert float(score_BT[0, 0]) == pytest.approx(alone, abs=1e-5)
        assert score == pytest.approx(alone, abs=1e-5)
    assert scores(model, ROWS[::-1], batch_size=2) == pytest.approx(found[::-1], abs=1e-5)


@pytest.mark.parametrize("schema", [decoder, rnn])
def test_the_scores_of_beginnings_are_read_at_once(schema):
    """A failure would mean that a token is praised for what another one did."""
    model = net(schema)
    normalise(model, ROWS)
    last = [2, 1, 6, 0, 2]
    for row, count, found in zip(ROWS, last, along(model, ROWS, last, batch_size=2), strict=True):
        assert found == pytest.approx(
            scores(model, [row[: len(row) - n] for n in reversed(range(count))]), abs=1e-5
        )


def test_not_every_model_scores_beginnings_on_the_way():
    """A model that reads both ways, or a mean, says another thing of a beginning than at its last position."""
    assert reads_on(net()) and reads_on(net(rnn)) and not reads_on(net(encoder))
    base = models.build(decoder.Config(vocab=31, layers=1, width=16, heads=2))
    assert not reads_on(heads.around(base, task="score", pooling="mean"))


def test_a_fresh_head_has_the_spread_of_its_paper():
    """A failure would mean that first scores are far from 1, and the first steps are spent on their size."""
    torch.manual_seed(0)
    wide = models.build(decoder.Config(vocab=31, layers=1, width=1024, heads=2))
    made = heads.around(wide, task="score", pooling="last")
    assert made.output.weight.shape == (1, 1024)
    assert (
        float(made.output.weight.detach().std()) == pytest.approx(1025**-0.5, rel=0.1)
        and made.output.bias is None
    )


def test_normalised_samples_have_mean_0_and_std_1(tmp_path):
    """A failure would mean that the weight of the KL penalty means another thing with every reward model (trap 36)."""
    model = net()
    before = scores(model, ROWS)
    mean, std = normalise(model, ROWS)
    assert (mean, std) == pytest.approx((statistics.fmean(before), statistics.pstdev(before)))
    after = scores(model, ROWS)
    assert statistics.fmean(after) == pytest.approx(0, abs=1e-5)
    assert statistics.pstdev(after) == pytest.approx(1, abs=1e-5)
    assert [raw(model, score) for score in after] == pytest.approx(before, abs=1e-5)
    assert normalise(model, ROWS) == pytest.approx((mean, std), rel=1e-4)  # again: not on top of the first
    weights.save(model, tmp_path)
    assert scores(weights.load(tmp_path), ROWS) == pytest.approx(after, abs=1e-6)


def test_equal_scores_lose_their_mean_only():
    """A failure would mean a division by zero after hours of training."""
    model = net()
    torch.nn.init.zeros_(model.output.weight)
    assert normalise(model, ROWS) == (0.0, 0.0) and scores(model, ROWS) == [0.0] * len(ROWS)


def test_beside_lora_it_is_saved_with_its_scale(tmp_path):
    """A failure would mean that a reward model trained with LoRA is loaded with another head, or another scale."""
    torch.manual_seed(0)
    base = models.build(decoder.Config(vocab=31, layers=1, width=16, heads=2, context=24))
    weights.save(base, tmp_path / "base")
    base = weights.load(tmp_path / "base")
    under = entries.Base(str(tmp_path / "base"), fingerprint(base))
    for parameter in base.parameters():
        parameter.requires_grad_(False)
    fresh = heads.around(base, task="score", pooling="last")
    for parameter in fresh.body.parameters():
        parameter.requires_grad_(False)
    model = entries.apply(fresh, [lora.Config()], under, None)
    normalise(model, ROWS)
    directory.save(model, tmp_path / "adapter")
    loaded = directory.load({None: tmp_path / "adapter"}, tmp_path / "base", None)
    assert loaded.config.gain == model.config.gain
    assert scores(loaded, ROWS) == pytest.approx(scores(model, ROWS), abs=1e-6)


def test_texts_ids_and_conversations_are_scored():
    """A failure would mean that PPO, or a user, gets the score of another text than the one that was asked."""
    tokenizer = Tokenizer.train(["what is it? it is good"], 300)
    model = net(vocab=tokenizer.size, context=40)
    template = ChatTemplate.load("chatml", tokenizer)
    reader = Reader(model, tokenizer, template=template)
    talk = [{"role": "user", "content": "it?"}, {"role": "assistant", "content": "good"}]
    encoded = template.encode(talk)
    ids = encoded.ids[: max(p for p, trained in enumerate(encoded.trained) if trained) + 1]
    plain = framed(tokenizer, tokenizer.encode_plain("good"))
    expected = scores(model, [ids, plain])
    found = reader.score([talk, [Message(**m) for m in talk], ids, "good", plain])
    assert found == pytest.approx([expected[0]] * 3 + [expected[1]] * 2, abs=1e-5)
    assert LanguageModel(model, tokenizer, template).rewards([talk]) == pytest.approx([expected[0]], abs=1e-5)
    long = [{"role": "user", "content": "what is it? " * 20}, talk[1]]
    (cut,) = reader.score([long])
    row = reader._row(long)
    kept = [tokenizer.bos, *row[len(row) - 39 :]] if row[0] == tokenizer.bos else row[-40:]
    assert cut == pytest.approx(scores(model, [kept])[0], abs=1e-5)


def test_what_has_no_score_is_refused():
    """A failure would mean a traceback, or the score of a prompt in the place of an answer's."""
    tokenizer = Tokenizer.train(["what"], 300)
    model = net(vocab=tokenizer.size)
    with pytest.raises(UserError, match="empty text"):
        scores(model, [[]])
    with pytest.raises(UserError, match="25 tokens"):
        scores(model, [[1] * 25])
    with pytest.raises(UserError, match="ends with an answer"):
        Reader(model, tokenizer).score([[{"role": "user", "content": "it?"}]])
    with pytest.raises(UserError, match="does not score"):
        scores(model.body, ROWS)
    with pytest.raises(UserError, match="no samples"):
        normalise(model, [])
