"""The in-context study asks only what the past decides, and its scores are those of known attention."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from lmcraft.data.batch import IGNORE
from lmcraft.models import decoder
from lmcraft.models.model import count_parameters
from lmcraft.studies import in_context, stream

CONFIG = in_context.Config(vocab=12, length=20, shortest=4, longest=8)


def test_the_past_decides_every_answer_of_a_repeated_sequence() -> None:
    """If this failed, 100 % would be out of reach, or be reached by looking back a fixed number of tokens."""
    batch = in_context.repeated(CONFIG, stream.generator(0, 0), 200)
    periods = set()
    for tokens, targets in zip(batch.tokens_BT.tolist(), batch.targets_BT.tolist(), strict=True):
        period = next(t for t, target in enumerate(targets) if target != IGNORE)
        periods.add(period)
        assert len(set(tokens[:period])) == period
        for t in range(period, 20):
            before = max(m for m in range(t) if tokens[m] == tokens[t])
            assert targets[t] == tokens[before + 1] and before == t - period
    assert periods == {4, 5, 6, 7, 8}
    with pytest.raises(ValidationError, match="must fit twice"):
        in_context.Config(length=20, longest=11)


def test_a_mapping_holds_within_a_sequence_and_not_beyond() -> None:
    """If this failed, the answers could be known by heart, or not be learned from the examples."""
    config = in_context.Config(vocab=30, inputs=4, length=60)
    batch = in_context.examples(config, stream.generator(0, 0), 50)
    mappings = []
    for tokens, targets in zip(batch.tokens_BT.tolist(), batch.targets_BT.tolist(), strict=True):
        asked = dict(zip(tokens[::2], targets[::2], strict=True))
        assert all(targets[t] == asked[tokens[t]] for t in range(0, 59, 2))
        assert all(target == IGNORE for target in targets[1::2])
        assert len(asked) == len(set(asked.values())) == 4 and not set(asked) & set(asked.values())
        mappings.append(tuple(sorted(asked.items())))
    assert len(set(mappings)) == 50
    with pytest.raises(ValidationError, match="at least twice inputs"):
        in_context.Config(vocab=24, inputs=13)


def test_what_is_possible_is_how_often_the_answer_was_shown() -> None:
    """If this failed, the models would be compared with the wrong limit."""
    config = in_context.Config(inputs=4, length=48)
    inputs_BN = in_context.examples(config, stream.generator(1, 0), 4000).tokens_BT[:, ::2]
    for k in (1, 4, 8):
        seen_B = (inputs_BN[:, :k] == inputs_BN[:, k : k + 1]).any(dim=1)
        assert float(seen_B.float().mean()) == pytest.approx(in_context.possible(config, k), abs=0.025)
    assert in_context.possible(config, 0) == 0


def test_scores_of_heads_whose_attention_is_known() -> None:
    """If this failed, a head would be named an induction head that is none."""
    batch = in_context.repeated(CONFIG, stream.generator(0, 0), 16)
    rows, length = batch.tokens_BT.shape
    first_B = (batch.targets_BT != IGNORE).int().argmax(dim=1)
    weights_BHTM = torch.zeros(rows, 3, length, length)
    for b in range(rows):
        for t in range(length):
            period = int(first_B[b])
            weights_BHTM[b, 0, t, max(0, t - period + 1)] = 1  # looks at what followed
            weights_BHTM[b, 1, t, max(0, t - 1)] = 1  # looks one back
            weights_BHTM[b, 2, t, : t + 1] = 1 / (t + 1)  # looks everywhere
    matching, previous = in_context.head_scores(weights_BHTM, batch)
    assert matching[0] == 1 and previous[1] == 1
    assert matching[1] == 0 and previous[0] == 0 and 0.05 < matching[2] < 0.3 and 0.05 < previous[2] < 0.15


def test_attention_is_recorded_only_inside() -> None:
    """If this failed, training would keep the attention of every step in memory."""
    model = stream.fresh(decoder.Config(vocab=12, context=20, layers=2, width=16, heads=2), 0)
    batch = in_context.repeated(CONFIG, stream.generator(0, 0), 3)
    with in_context.attention_of(model) as weights:
        stream.hits(model, batch)
    assert [tuple(w.shape) for w in weights] == [(3, 2, 20, 20)] * 2
    stream.hits(model, batch)
    assert len(weights) == 2 and torch.allclose(weights[0].sum(dim=-1), torch.ones(3, 2, 20))


def test_one_layer_is_as_large_as_two() -> None:
    """If this failed, one layer could fail because it is smaller."""
    c = in_context.Config()
    sizes = [
        count_parameters(
            decoder.build(decoder.Config(vocab=c.vocab, layers=layers, width=width, heads=c.heads))
        )
        for layers, width in ((1, c.wide), (2, c.width))
    ]
    assert max(sizes) < 1.1 * min(sizes)
