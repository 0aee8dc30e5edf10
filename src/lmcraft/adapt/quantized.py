"""Weights in 4, 8 or 16 bits, and the layers that compute with them.

    int8   W = s_row · q,          s_row = max|W_row| / 127                                (LLM.int8, arXiv 2208.07339)
    NF4    W = a_block · level[q], a_block = max|W_block|, 16 quantiles of a normal        (QLoRA, arXiv 2305.14314)
    twice  a_block = mean + b_group · map[p], b_group = max|a − mean| over 256 blocks, map: 8-bit dynamic numbers

1. y = x Wᵀ is made of dense weights that exist for the time of the product only; the backward pass makes them again
   instead of keeping them. So the weights of a whole model are never dense at once.
2. Two codes share a byte, the first in its upper half; a byte is looked up as a pair of numbers, moved as one 64-bit
   word. On a CPU that is little beside the product that follows (docs/decisions/0008-quantized-bases.md).
3. Codes and scales are buffers: nothing of them is trained, none has a gradient or optimizer state.
4. Equal weights give equal codes, so a quantized base need not be saved beside its adapter.

Legend: N numbers or blocks in a row, B bytes.
Proved by tests/unit/adapt/test_quantize.py and tests/parity/test_quantized.py.
"""

from __future__ import annotations

from functools import cache
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Table of the paper's appendix E: quantiles of N(0, 1), zero among them, scaled to [-1, 1].
NF4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip
GROUP = 256  # scales that share one scale of their own


class Packed(nn.Module):
    """One matrix [rows, columns] in few bits.

    Args:
        bits: 4 (NF4), 8 (int8) or 16 (bfloat16).
        block: numbers that share a scale (4 bits).
        twice: whether the scales are quantized too (4 bits).
    """

    def __init__(self, weight: Tensor, bits: int, block: int = 64, twice: bool = True) -> None:
        super().__init__()
        weight = weight.detach()
        self.shape, self.bits, self.block = weight.shape, bits, block
        self.register_buffer("mean", None)
        if bits == 16:
            self.register_buffer("codes", weight.to(torch.bfloat16))
        elif bits == 8:
            scales = weight.abs().amax(dim=1, keepdim=True) / 127
            self.register_buffer("codes", torch.round(weight / _not_zero(scales)).to(torch.int8))
            self.register_buffer("scales", scales)
        else:
            codes, scales = _nf4(weight, block)
            self.register_buffer("codes", codes)
            self._keep_scales(scales, twice)
        self.error = _relative_rms(self.matrix() - weight, weight)

    def _keep_scales(self, scales_N: Tensor, twice: bool) -> None:
        if not twice:
            self.register_buffer("scales", scales_N)
            return
        self.register_buffer("mean", scales_N.mean())
        centered_N = scales_N - self.mean
        groups = _in_rows(centered_N, GROUP)
        largest_N1 = groups.abs().amax(dim=1, keepdim=True)
        levels = dynamic_map().to(scales_N.device)
        codes = torch.bucketize((groups / _not_zero(largest_N1)).contiguous(), (levels[1:] + levels[:-1]) / 2)
        self.register_buffer("scales", codes.to(torch.uint8).flatten()[: len(scales_N)].clone())
        self.register_buffer("group_scales", largest_N1[:, 0].clone())

    def numel(self) -> int:
        """How many weights it stands for."""
        return self.shape.numel()

    @property
    def bytes(self) -> int:
        """Size in memory."""
        return sum(buffer.numel() * buffer.element_size() for buffer in self.buffers())

    def matrix(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The matrix, [rows, columns]; that of 16 bits is not copied where it is asked for as it lies."""
        if self.bits == 16:
            return self.codes.to(dtype)
        if self.bits == 8:
            return self.codes.float().mul_(self.scales).to(dtype)
        numbers = _pairs_of(self.codes).view(-1, self.block).mul_(self._scales()[:, None])
        return numbers.flatten()[: self.shape.numel()].view(self.shape).to(dtype)

    def rows(self, ids: Tensor) -> Tensor:
        """Some rows in float32, [...] → [..., columns]; the others stay packed where no block spans two rows."""
        if self.bits == 4 and self.shape[1] % self.block:
            return F.embedding(ids, self.matrix())
        if self.bits == 16:
            return F.embedding(ids, self.codes).float()
        if self.bits == 8:
            return F.embedding(ids, self.codes).float().mul_(F.embedding(ids, self.scales))
        codes = F.embedding(ids, self.codes.view(self.shape[0], -1))
        scales = F.embedding(ids, self._scales().view(self.shape[0], -1))
        numbers = _pairs_of(codes.flatten()).view(*scales.shape, self.block).mul_(scales[..., None])
        return numbers.flatten(-2)

    def _scales(self) -> Tensor:
        """The scale of every block, float32 [N]."""
        if self.mean is None:
            return self.scales
        spread = F.embedding(self.scales.int(), dynamic_map().to(self.scales.device)[:, None])[:, 0]
        groups = self.group_scales.repeat_interleave(GROUP)[: len(spread)]
        return spread.mul_(groups).add_(self.mean)


def _nf4(weight: Tensor, block: int) -> tuple[Tensor, Tensor]:
    """Codes, two in a byte, and the scale of each block."""
    blocks = _in_rows(weight.flatten().float(), block)
    scales_N1 = blocks.abs().amax(dim=1, keepdim=True)
    scaled = blocks / _not_zero(scales_N1)
    codes = torch.zeros_like(scaled, dtype=torch.uint8)
    for low, high in pairwise(NF4):
        codes += scaled > (torch.tensor(low) + torch.tensor(high)).item() / 2
    codes_N2 = codes.view(-1, 2)
    return (codes_N2[:, 0] << 4) | codes_N2[:, 1], scales_N1[:, 0].clone()


def _pairs_of(codes_B: Tensor) -> Tensor:
    """The two levels of every byte, float32, one behind the other."""
    return torch.index_select(_pairs(str(codes_B.device)), 0, codes_B.int()).view(torch.float32)


@cache
def _pairs(device: str) -> Tensor:
    """The two levels of each possible byte as one word, int64 [256]."""
    levels = torch.tensor(NF4)
    byte = torch.arange(256)
    return torch.stack((levels[byte >> 4], levels[byte & 15]), dim=1).view(torch.int64)[:, 0].to(device)


@cache
def dynamic_map() -> Tensor:
    """The 256 numbers in [-1, 1] that 8 bits stand for, many near zero: sign, decimal exponent, linear fraction.

    Dettmers, 8-Bit Approximations for Parallelism in Deep Learning, arXiv 1511.04561, section 2.1.
    """
    positive = []
    for exponent in range(7):
        edges = torch.linspace(0.1, 1, 2**exponent + 1)
        positive.append(10.0 ** (exponent - 6) * (edges[:-1] + edges[1:]) / 2)
    numbers = torch.cat(positive)
    return torch.cat((numbers, -numbers, torch.tensor([0.0, 1.0]))).sort().values


def _in_rows(numbers: Tensor, length: int) -> Tensor:
    """Numbers in rows of one length, the last filled up with zeros."""
    return F.pad(numbers, (0, -numbers.numel() % length)).view(-1, length)


def _not_zero(scales: Tensor) -> Tensor:
    """Scales to divide by: a row of zeros stays one."""
    return scales.masked_fill(scales == 0, 1.0)


def _relative_rms(difference: Tensor, weight: Tensor) -> float:
    """RMS of the error over RMS of the weights."""
    return float(difference.norm() / weight.float().norm().clamp(min=1e-30))


class Quantized(nn.Module):
    """What layers with quantized weights have in common: `packed`, which two layers that are tied share."""

    packed: Packed

    def dense(self) -> Tensor:
        """The weights that the layer computes with, float32: [out, in], or a table [V, D]."""
        return self.packed.matrix()


class QuantizedLinear(Quantized):
    """y = x Wᵀ + b with a packed W [out, in]; its bias is the one of the layer that it replaces."""

    def __init__(self, packed: Packed, bias: nn.Parameter | None) -> None:
        super().__init__()
        self.packed, self.bias = packed, bias
        self.out_features, self.in_features = packed.shape

    def forward(self, x: Tensor) -> Tensor:
        y = _Product.apply(x, self.packed)
        return y if self.bias is None else y + self.bias


class QuantizedEmbedding(Quantized, nn.Embedding):
    """A packed table of vectors; `weight` is all of it, made anew at every use."""

    def __init__(self, packed: Packed) -> None:
        nn.Module.__init__(self)
        self.packed = packed
        self.num_embeddings, self.embedding_dim = packed.shape
        self.padding_idx = self.max_norm = None
        self.norm_type, self.scale_grad_by_freq, self.sparse = 2.0, False, False

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """The table in float32."""
        return self.packed.matrix()

    def forward(self, ids: Tensor) -> Tensor:
        return self.packed.rows(ids)


class _Product(torch.autograd.Function):
    """x Wᵀ, whose backward makes W again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, packed: Packed) -> Tensor:
        ctx.packed, ctx.dtype = packed, x.dtype
        kind = x.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
        return F.linear(x, packed.matrix(dtype))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return (gradient @ ctx.packed.matrix(gradient.dtype)).to(ctx.dtype), None
