"""Quantized weights against bitsandbytes: the same codes, the same numbers."""

from __future__ import annotations

import bitsandbytes.functional as bnb
import pytest
import torch

from lmcraft.adapt.quantized import NF4, Packed, dynamic_map

# Its dense numbers are wrong on CPUs for a row that is shorter than a block and divides it, so there is none here.
CASES = [((64, 64), 64), ((96, 40), 64), ((96, 40), 128), ((48, 1024), 64), ((48, 1024), 128)]


def weight(shape) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 0.05


@pytest.mark.parametrize(("shape", "block"), CASES)
@pytest.mark.parametrize("twice", [False, True])
def test_nf4_is_that_of_bitsandbytes(shape, block, twice):
    """A difference would mean another format than QLoRA's, of unknown quality."""
    packed = Packed(weight(shape), 4, block, twice)
    codes, state = bnb.quantize_4bit(
        weight(shape), blocksize=block, quant_type="nf4", compress_statistics=twice
    )
    assert packed.codes.equal(codes.flatten())
    expected = bnb.dequantize_4bit(codes, state)
    if twice:
        torch.testing.assert_close(packed.mean, state.offset)
        torch.testing.assert_close(packed.group_scales, state.state2.absmax)
        apart = (
            packed.scales.int() - state.absmax.int()
        ).abs()  # where a scale is between two numbers of the map
        assert apart.max() <= 1 and (apart == 0).float().mean() >= 0.98
        expected = expected.flatten()
        same = (apart == 0).repeat_interleave(block)[: len(expected)]
        torch.testing.assert_close(packed.matrix().flatten()[same], expected[same], rtol=1e-6, atol=1e-8)
    else:
        torch.testing.assert_close(packed.matrix(), expected, rtol=1e-6, atol=1e-8)


def test_tables_are_those_of_bitsandbytes():
    """A difference would mean levels that nobody has tested."""
    torch.testing.assert_close(torch.tensor(NF4), bnb.get_4bit_type("nf4", device="cpu"), rtol=0, atol=0)
    torch.testing.assert_close(dynamic_map(), bnb.create_dynamic_map(), rtol=1e-6, atol=1e-9)


def test_int8_is_that_of_bitsandbytes():
    """A difference would mean another rounding than LLM.int8's."""
    packed = Packed(weight((96, 40)).half().float(), 8)
    codes, largest, _ = bnb.int8_vectorwise_quant(weight((96, 40)).half())
    assert (packed.codes.int() - codes.int()).abs().max() <= 1  # ties of half precision
    assert (packed.codes == codes).float().mean() > 0.99
    torch.testing.assert_close(packed.scales[:, 0] * 127, largest, rtol=1e-6, atol=0)
