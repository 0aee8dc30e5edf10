"""Rotary frequencies, plain and stretched to texts longer than those of training: linear, dynamic, yarn, llama3.

A pair of channels i turns by angle position · base^(-2i/C). With a factor s and a trained length L:

1. linear: every frequency / s (kaiokendev, "Extending context to 8K", 2023; Chen et al., arXiv 2306.15595).
2. dynamic: the base grows with the text's own length n > L, base · (s·n/L - (s-1))^(C/(C-2)) (NTK-aware, bloc97 and
   emozilla, 2023). All positions of a text turn by the frequencies of its length, so they change as it grows; what
   that means for remembered keys is decided in lmcraft.models.decoder and docs/decisions/0006-rope.md.
3. yarn: fast channels stay, slow ones are divided by s, a linear ramp in between (from `beta_fast` to `beta_slow`
   turns within L); cosines and sines are multiplied by 0.1·ln(s) + 1 (Peng et al., arXiv 2309.00071).
4. llama3: the same idea on wave lengths, L/`high_freq_factor` to L/`low_freq_factor` (Llama 3.1 model card).

All in float32 and in the order of operations of the public implementations: at position 10,000 a frequency that is off
in its last bit turns visibly elsewhere.

Legend: B rows, T positions, C head width.
Proved by tests/unit/layers/test_rope.py and tests/parity/test_decoder.py.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from ..core.config import Strict

OF_ONE_KIND = {
    "attention_factor": "yarn", "beta_fast": "yarn", "beta_slow": "yarn", "truncate": "yarn",
    "low_freq_factor": "llama3", "high_freq_factor": "llama3",
}  # fmt: skip


class Rope(Strict):
    """How rotary positions are stretched beyond the trained length."""

    kind: Literal["linear", "dynamic", "yarn", "llama3"]
    factor: float = Field(ge=1, description="how many times longer than in training")
    original_context: int | None = Field(
        None, gt=0, description="tokens it was trained on; default: context/factor"
    )
    attention_factor: float | None = Field(
        None, ge=0, description="yarn: on cosines and sines; default: 0.1·ln(factor) + 1"
    )
    beta_fast: float = Field(32.0, gt=0, description="yarn: more turns than this within training stay")
    beta_slow: float = Field(1.0, gt=0, description="yarn: fewer turns than this are stretched in full")
    truncate: bool = Field(True, description="yarn: the ramp's ends are rounded to whole channels")
    low_freq_factor: float = Field(1.0, gt=0, description="llama3: where stretching in full begins")
    high_freq_factor: float = Field(4.0, gt=0, description="llama3: where stretching begins")

    @model_validator(mode="after")
    def _consistent(self) -> Rope:
        for name, kind in OF_ONE_KIND.items():
            if self.kind != kind and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} belongs to {kind}, not to {self.kind}")
        if self.high_freq_factor <= self.low_freq_factor:
            raise ValueError("high_freq_factor must be larger than low_freq_factor")
        return self

    @property
    def gain(self) -> float:
        """What cosines and sines are multiplied with."""
        if self.kind != "yarn":
            return 1.0
        return 0.1 * math.log(self.factor) + 1.0 if self.attention_factor is None else self.attention_factor


def frequencies(head_width: int, base: float, rope: Rope | None, lengths_BT: Tensor) -> Tensor:
    """Angle per position of each pair of channels, float32 [C/2], for `dynamic` [B, T, C/2].

    Args:
        lengths_BT: length of the text that each position belongs to; only `dynamic` looks at it.
    """
    exponent = torch.arange(0, head_width, 2, device=lengths_BT.device, dtype=torch.float32) / head_width
    if rope is None:
        return 1.0 / (base**exponent)
    assert rope.original_context is not None
    if rope.kind == "linear":
        return 1.0 / (base**exponent) / rope.factor
    if rope.kind == "dynamic":
        return _dynamic(exponent, head_width, base, rope, lengths_BT)
    if rope.kind == "yarn":
        return _yarn(exponent, head_width, base, rope)
    return _llama3(1.0 / (base**exponent), rope)


def _dynamic(exponent: Tensor, head_width: int, base: float, rope: Rope, lengths_BT: Tensor) -> Tensor:
    trained = rope.original_context
    growth_BT = (rope.factor * lengths_BT / trained - (rope.factor - 1)) ** (head_width / (head_width - 2))
    base_BT = torch.where(lengths_BT > trained, base * growth_BT, base)
    return 1.0 / (base_BT[..., None] ** exponent)


def _yarn(exponent: Tensor, head_width: int, base: float, rope: Rope) -> Tensor:
    def channel(turns: float) -> float:
        """The (fractional) pair of channels that turns so often within the trained length."""
        return (
            head_width * math.log(rope.original_context / (turns * 2 * math.pi)) / (2 * math.log(base))  # type: ignore[operator]
        )

    low, high = channel(rope.beta_fast), channel(rope.beta_slow)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_width - 1)
    high += 0.001 if low == high else 0
    pairs = torch.arange(head_width // 2, device=exponent.device, dtype=torch.float32)
    kept = 1 - ((pairs - low) / (high - low)).clamp(0, 1)
    wave = base**exponent
    return 1.0 / (rope.factor * wave) * (1 - kept) + 1.0 / wave * kept


def _llama3(plain: Tensor, rope: Rope) -> Tensor:
    trained, low, high = rope.original_context, rope.low_freq_factor, rope.high_freq_factor
    assert trained is not None
    length = 2 * math.pi / plain
    stretched = torch.where(length > trained / low, plain / rope.factor, plain)
    smooth = (trained / length - low) / (high - low)
    between = (length >= trained / high) & (length <= trained / low)
    return torch.where(between, (1 - smooth) * stretched / rope.factor + smooth * stretched, stretched)
