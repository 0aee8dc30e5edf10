"""Bottleneck adapters: where they stand, that they start as nothing, and what they compute."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError

from lmcraft.adapt import adapter, bottleneck
from lmcraft.core.errors import UserError

VARIANTS = [
    ("decoder", {}, 2),
    ("decoder", {"norm": "sandwich", "mlp": "geglu"}, 2),
    ("encoder", {"placement": "post"}, 2),
    ("encdec", {}, 5),
    ("encoder+classes", {}, 2),
]


@pytest.mark.parametrize(("kind", "settings", "houlsby"), VARIANTS)
@pytest.mark.parametrize("variant", ["houlsby", "pfeiffer"])
def test_starts_as_the_base_and_trains_alone(tiny, kind, settings, houlsby, variant):
    """A failure would mean a start that disturbs the model (arXiv 1902.00751, 2.1), or adapters that are missing."""
    model = tiny.build(kind, **settings)
    base, before = tiny.logits(model), tiny.hashes(model)
    bottleneck.apply(model, bottleneck.Config(variant=variant, width=4), "b")
    stacks = 2 if kind == "encdec" else 1
    assert len(adapter.parts(model, "b")) == 2 * (houlsby if variant == "houlsby" else stacks)
    assert tiny.logits(model).equal(base)
    moved = tiny.step(model)
    assert {name.rsplit(".", 2)[-2] for name in moved} == {"down", "up"}
    assert all(".beside.b." in name for name in moved)
    assert tiny.hashes(model) == before
    with adapter.disabled(model):
        assert tiny.logits(model).equal(base)


def test_stands_before_the_residual(tiny):
    """A failure would mean another architecture than that of the paper, which no other program could run."""
    model = tiny.build()
    tiny.scatter(
        bottleneck.apply(model, bottleneck.Config(variant="houlsby", width=4, activation="gelu"), "b")
    )
    block, found = model.blocks[0], {}
    block.attn_norm.register_forward_hook(lambda m, x, y: found.update(x=x[0]))
    block.mlp_norm.register_forward_hook(lambda m, x, y: found.update(middle=x[0]))
    block.attn.out.register_forward_hook(lambda m, x, y: found.update(branch=y))
    tiny.logits(model)
    part = block.attn.beside["b"]
    y = found["branch"]
    expected = found["x"] + y + part.up(F.gelu(part.down(y)))
    torch.testing.assert_close(found["middle"], expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("settings", "width"), [({}, 2), ({"reduction": 4}, 8), ({"width": 5}, 5)])
def test_its_width(tiny, settings, width):
    """A failure would mean another number of trained parameters than the user asked for."""
    model = bottleneck.apply(tiny.build(), bottleneck.Config(**settings), "b")
    assert model.blocks[0].mlp.beside["b"].down.weight.shape == (width, 32)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert trained == 2 * (2 * 32 * width + width + 32)


def test_remembered_equals_recomputed(tiny):
    """A difference would mean that generation is done by another model than was trained."""
    model = tiny.scatter(bottleneck.apply(tiny.build(), bottleneck.Config(variant="houlsby"), "b"))
    memory = model.start(3, 12)
    pieces = [tiny.logits(model, part, None, memory) for part in tiny.tokens().split([5, 1, 6], dim=1)]
    torch.testing.assert_close(torch.cat(pieces, dim=1), tiny.logits(model), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["rnn", "seq2seq"])
def test_a_model_without_branches_is_refused(tiny, kind):
    """A failure would mean a run that trains nothing, or adapters in places that nobody chose."""
    with pytest.raises(UserError, match="takes no bottleneck") as caught:
        bottleneck.apply(tiny.build(kind), bottleneck.Config(), "b")
    assert "no blocks" in str(caught.value) and "lora" in str(caught.value)


def test_sizes_that_make_no_sense_are_refused(tiny):
    """A failure would mean a bottleneck that is none, or a setting that is passed over in silence."""
    with pytest.raises(UserError, match="bottleneck of 32 is none"):
        bottleneck.apply(tiny.build(), bottleneck.Config(width=32), "b")
    with pytest.raises(ValidationError, match="width or reduction"):
        bottleneck.Config(width=4, reduction=8)
