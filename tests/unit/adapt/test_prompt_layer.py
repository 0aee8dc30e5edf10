"""The layer beside the embedding: zero at the start, an addition afterwards, and nothing to the head."""

from __future__ import annotations

import pytest
import torch

from lmcraft.adapt import adapter, prompt_layer
from lmcraft.core.errors import UserError

KINDS = ["decoder", "encoder", "rnn", "encdec", "seq2seq", "decoder+classes"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rank", [None, 3])
def test_starts_as_the_base_and_trains_alone(tiny, kind, rank):
    """A failure would mean a start that disturbs the model, or a base that is not what it was."""
    model = tiny.build(kind)
    base, before = tiny.logits(model), tiny.hashes(model)
    prompt_layer.apply(model, prompt_layer.Config(rank=rank), "p")
    assert tiny.logits(model).equal(base)
    moved = tiny.step(model)
    assert moved and all(".beside.p." in name for name in moved)
    assert tiny.hashes(model) == before
    assert not torch.allclose(tiny.logits(model), base)
    with adapter.disabled(model):
        assert tiny.logits(model).equal(base)


@pytest.mark.parametrize("rank", [None, 3])
@pytest.mark.parametrize("norm", ["rmsnorm", "sandwich"])
def test_is_the_base_with_another_table(tiny, rank, norm):
    """A failure would mean that the layer does not do what its equation says, or that merging changes the model."""
    settings = {"norm": norm, "mlp": "geglu" if norm == "sandwich" else "swiglu", "tied": False}
    model = tiny.build(**settings)
    prompt_layer.apply(model, prompt_layer.Config(rank=rank), "p")
    part = tiny.scatter(model).embedding.beside["p"]
    other = tiny.build(**settings)
    for strength in (1.0, 0.5):
        adapter.set_strength(model, strength)
        other.load_state_dict(tiny.build(**settings).state_dict())
        table = other.embedding.weight
        table.data = part.merged(table.t(), other.embedding).t().detach().contiguous()
        torch.testing.assert_close(tiny.logits(model), tiny.logits(other), rtol=1e-5, atol=1e-6)


def test_a_tied_head_stays(tiny):
    """A failure would mean that the answer's vocabulary moves with the input's, which is another method."""
    model = tiny.build()
    hidden = torch.randn(2, 32, generator=torch.Generator().manual_seed(0))
    before = model.head(hidden)
    tiny.scatter(prompt_layer.apply(model, prompt_layer.Config(), "p"))
    assert model.head(hidden).equal(before)


def test_remembered_equals_recomputed(tiny):
    """A difference would mean that generation does not see what was trained."""
    model = tiny.scatter(prompt_layer.apply(tiny.build(), prompt_layer.Config(), "p"))
    memory = model.start(3, 12)
    pieces = [tiny.logits(model, part, None, memory) for part in tiny.tokens().split([5, 1, 6], dim=1)]
    torch.testing.assert_close(torch.cat(pieces, dim=1), tiny.logits(model), rtol=1e-4, atol=1e-5)


def test_a_rank_that_saves_nothing_is_refused(tiny):
    """A failure would mean more parameters than the full table has, for less."""
    with pytest.raises(UserError, match="saves nothing"):
        prompt_layer.apply(tiny.build(), prompt_layer.Config(rank=32), "p")
