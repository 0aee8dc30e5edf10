"""Quantized bases: which layers, how exact, what is kept, and that gradients are those of the dense numbers."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from lmcraft.adapt import adapter, bottleneck, prompt_layer, quantize
from lmcraft.adapt.quantized import Packed, QuantizedEmbedding, QuantizedLinear
from lmcraft.core.errors import UserError

BITS = [4, 8, 16]
KINDS = ["decoder", "encoder", "rnn", "encdec", "seq2seq", "decoder+classes"]
# Relative RMS of normal weights: int8 has steps of max/127, and 576 numbers have a maximum of about 3.2 σ.
EXPECTED = {4: 0.091, 8: 3.2 / 127 / 12**0.5, 16: 0.00168}  # 4 and 16: as bitsandbytes and bfloat16 have


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 0.05


@pytest.mark.parametrize("bits", BITS)
def test_the_error_is_that_of_the_format(bits):
    """A larger error would mean that codes or scales are wrong in a way that only costs quality."""
    packed = Packed(normal(256, 576), bits)
    assert packed.error == pytest.approx(EXPECTED[bits], rel=0.1)
    difference = packed.matrix() - normal(256, 576)
    assert packed.error == pytest.approx(float(difference.norm() / normal(256, 576).norm()))


@pytest.mark.parametrize(
    ("settings", "bits_a_weight"),
    [
        ({"bits": 16}, 16),
        ({"bits": 8}, 8 + 32 / 1024),
        ({"bits": 4, "twice": False}, 4 + 32 / 64),
        ({"bits": 4, "twice": True}, 4 + 8 / 64 + 32 / (64 * 256)),
        ({"bits": 4, "twice": False, "block": 32}, 5),
    ],
)
def test_bytes_are_those_of_the_format(settings, bits_a_weight):
    """A failure would mean that the memory that is promised is not saved (0.127 bits a weight for scales, QLoRA)."""
    packed = Packed(normal(512, 1024), **settings)
    assert packed.bytes == pytest.approx(512 * 1024 * bits_a_weight / 8, rel=1e-4)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("shape", [(64, 128), (7, 33), (1, 5)], ids=str)
def test_rows_are_those_of_the_matrix(bits, shape):
    """A difference would mean that an embedding gives other vectors than the matrix has, or that sizes must be even."""
    packed = Packed(normal(*shape), bits)
    ids = torch.tensor([[0, shape[0] - 1], [0, 0]])
    assert packed.matrix().shape == shape
    assert packed.rows(ids).equal(packed.matrix()[ids])
    assert packed.error < 0.2


@pytest.mark.parametrize("bits", BITS)
def test_zeros_stay_zeros(bits):
    """A failure would mean a NaN in every layer that has an empty row."""
    weight = normal(8, 64)
    weight[3] = 0
    dense = Packed(weight, bits, twice=False).matrix()
    assert (dense[3] == 0).all() and dense.isfinite().all()
    assert Packed(torch.zeros(8, 64), bits).matrix().isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bits", BITS)
def test_every_linear_layer_of_the_blocks(tiny, kind, bits):
    """A failure would mean that a layer is left out, or that the head is not what it was."""
    model = tiny.build(kind)
    asked = [n for n, m in model.named_modules() if isinstance(m, nn.Linear) and any(c.isdigit() for c in n)]
    base = tiny.logits(model)
    quantize.apply(model, quantize.Config(bits=bits), "q")
    found = quantize.errors(model)
    assert asked and [error.path for error in found] == asked
    assert all(e.bits == bits and 0 < e.relative_rms < 0.12 and e.bytes < e.dense_bytes for e in found)
    assert type(model.embedding) is nn.Embedding
    moved = (tiny.logits(model) - base).norm() / base.norm()
    assert 0 < moved < {4: 0.8, 8: 0.1, 16: 0.05}[bits]


@pytest.mark.parametrize("bits", BITS)
def test_equals_the_dense_model_of_the_same_numbers(tiny, bits):
    """A difference would mean that forward or backward computes with other weights than the dense numbers tell."""
    found = []
    for change in (lambda model: model, adapter.merge):
        model = change(quantize.apply(tiny.build(bias="all"), quantize.Config(bits=bits), "q"))
        prompt_layer.apply(model, prompt_layer.Config(), "p")
        logits = tiny.logits(model)
        logits.log_softmax(-1)[..., 1].sum().backward()
        found.append((logits, model.embedding.beside["p"].table.weight.grad))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-4, atol=1e-4)


def test_no_dense_weight_is_kept_for_backward():
    """A failure would mean that the memory of the dense model comes back between forward and backward."""
    layer = QuantizedLinear(Packed(normal(64, 64), 4), None)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (kept.append(t.shape), t)[-1], lambda t: t):
        layer(normal(3, 64).requires_grad_())
    assert not kept


def test_the_base_is_frozen_and_has_no_state(tiny):
    """A failure would mean bytes for gradients of weights that are whole numbers."""
    model = quantize.apply(tiny.build(bias="all").requires_grad_(True), quantize.Config(), "q")
    layers = [m for m in model.modules() if isinstance(m, QuantizedLinear)]
    assert layers and not any(p.requires_grad for layer in layers for p in layer.parameters())
    assert all(buffer.grad_fn is None for buffer in model.buffers())


def test_the_same_weights_give_the_same_codes(tiny):
    """A difference would mean that an adapter is loaded over another base than it was trained over."""
    first, second = (quantize.apply(tiny.build(), quantize.Config(), "q") for _ in range(2))
    assert tiny.hashes(first) == tiny.hashes(second)
    assert any("codes" in name for name in first.state_dict())


@pytest.mark.parametrize("also", [("embedding",), ("head",), ("embedding", "head")])
def test_a_tie_holds(tiny, also):
    """A failure would mean that a tied table is stored twice, or that both ends of the model differ."""
    model = quantize.apply(tiny.build(), quantize.Config(also=also), "q")
    assert isinstance(model.embedding, QuantizedEmbedding) and isinstance(model.output, QuantizedLinear)
    assert model.embedding.packed is model.output.packed
    logits = tiny.logits(model)
    dense = adapter.merge(model)
    assert dense.output.weight is dense.embedding.weight
    torch.testing.assert_close(tiny.logits(dense), logits, rtol=1e-5, atol=1e-5)


def test_modules_by_name(tiny):
    """A failure would mean that other layers are quantized than those asked for."""
    model = quantize.apply(
        tiny.build(tied=False), quantize.Config(modules=("attn.q", "mlp.up"), also=("head",)), "q"
    )
    names = [error.path for error in quantize.errors(model)]
    assert names == [*(f"blocks.{i}.{n}" for i in (0, 1) for n in ("attn.q", "mlp.up")), "output"]
    assert type(model.embedding) is nn.Embedding


def test_adapters_stand_beside_quantized_layers(tiny):
    """A failure would mean that what stands beside a layer is lost, or disturbs it before it is trained."""
    model = quantize.apply(tiny.build(), quantize.Config(), "q")
    base = tiny.logits(model)
    bottleneck.apply(model, bottleneck.Config(variant="houlsby"), "b")
    adapter.put_beside(model.blocks[0].attn.q, "b", bottleneck.Bottleneck(32, 4, "relu", base))
    assert tiny.logits(model).equal(base)
    assert all(".beside.b." in name for name in tiny.step(model))
    with adapter.disabled(model):
        torch.testing.assert_close(tiny.logits(model), base, rtol=1e-5, atol=1e-5)


def test_low_precision_products(tiny):
    """A failure would mean that bfloat16 training over a quantized base stops in the backward pass."""
    layer = QuantizedLinear(Packed(normal(16, 64), 4), nn.Parameter(normal(16)))
    x = normal(3, 64).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = layer(x)
    y.float().sum().backward()
    assert x.grad.dtype == torch.float32
    torch.testing.assert_close(x.grad, layer.dense().sum(dim=0).expand(3, -1), rtol=0.02, atol=0.02)


def test_what_cannot_be_is_refused(tiny):
    """A failure would mean an adapter that is lost, a wrong name that is passed over, or codes without a byte."""
    with pytest.raises(UserError, match="before anything stands beside"):
        quantize.apply(prompt_layer.apply(tiny.build(), prompt_layer.Config(), "p"), quantize.Config(), "q")
    with pytest.raises(UserError, match=r"no module 'attn\.z'"):
        quantize.apply(tiny.build(), quantize.Config(modules=("attn.z",)), "q")
    with pytest.raises(UserError, match="no module 'head'"):
        quantize.apply(tiny.build("decoder+embedding"), quantize.Config(also=("head",)), "q")
    with pytest.raises(ValidationError, match="must be even"):
        quantize.Config(block=33)
