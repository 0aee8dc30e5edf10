"""Heads: what may carry them, what they replace, and that a body is not changed by them."""

from __future__ import annotations

import pytest
import torch

from lmcraft.core.errors import UserError
from lmcraft.models import decoder, encdec, encoder, heads, model, rnn, weights

BODIES = {
    "encoder": encoder.Config(vocab=31, layers=1, width=16, heads=2, context=12),
    "decoder": decoder.Config(vocab=31, layers=1, width=16, heads=2, context=12),
    "rnn": rnn.Config(vocab=31, layers=1, width=16, context=12),
}


def body(kind: str):
    torch.set_num_threads(1)
    torch.manual_seed(0)
    return model.build(BODIES[kind]).eval()


@pytest.mark.parametrize("kind", BODIES)
def test_the_body_says_what_it_said(kind):
    """A difference would mean that a head starts from another model than the one that was trained."""
    tokens_BT = torch.randint(0, 31, (2, 9), generator=torch.Generator().manual_seed(1))
    expected = body(kind)(tokens_BT)
    tagged = heads.around(body(kind), task="tags", labels=("O", "B"))
    assert torch.equal(tagged(tokens_BT), expected)
    vectors = heads.around(body(kind), task="embedding", pooling="mean", normalized=False)
    torch.testing.assert_close(vectors(tokens_BT)[:, 3], expected.mean(dim=1))
    assert not any("output" in name or "transform" in name for name in vectors.state_dict())


def test_a_new_head_replaces_an_old_one():
    """A failure would mean that a fine-tuned classifier cannot be tuned to other classes."""
    first = heads.around(body("encoder"), task="classes", labels=("a", "b"))
    second = heads.around(first, task="tags", labels=("O", "B", "I"))
    assert second.body is first.body and second.config.body == first.body.config
    assert second.head(second(torch.tensor([[1, 2, 3]]))).shape == (1, 3, 3)


def test_new_heads_repeat_with_the_seed():
    """A difference would mean that a fine-tuning run cannot be repeated."""
    made = []
    for _ in range(2):
        torch.manual_seed(5)
        made.append(heads.around(body("encoder"), task="classes", labels=("a", "b")).output.weight)
    assert torch.equal(*made)


def test_what_cannot_carry_a_head():
    """A failure would mean a traceback, or a class read from a position that has seen one token."""
    small = encdec.Config(vocab=31, layers=1, width=16, heads=2)
    with pytest.raises(UserError, match="cannot be given this head"):
        heads.around(model.build(small), task="tags", labels=("O", "B"))
    with pytest.raises(UserError, match="stands for nothing"):
        heads.around(body("decoder"), task="classes", labels=("a", "b"), pooling="cls")
    with pytest.raises(UserError, match="names no model"):
        model.build(heads.Config())


def test_the_longest_text_is_the_shorter_limit():
    """A wrong value would let a text run past what the body has positions for."""
    for longest, expected in ((None, 12), (5, 5), (50, 12)):
        made = heads.around(body("encoder"), task="embedding", longest=longest)
        assert made.max_length == expected and made.config.context == expected
    assert heads.around(body("rnn"), task="embedding").max_length is None


def test_labels_come_back_as_they_were(tmp_path):
    """A difference would mean that a saved classifier names its classes in another order."""
    made = heads.around(
        body("decoder"), task="classes", labels=("10", "9", "né"), pooling="last", dropout=0.2
    )
    weights.save(made, tmp_path)
    assert weights.load(tmp_path).config == made.config
