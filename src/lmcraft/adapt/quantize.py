"""A frozen base in 4, 8 or 16 bits; with LoRA over it, it is QLoRA (Dettmers et al., arXiv 2305.14314).

1. All linear layers of the blocks are quantized, embedding and head only where asked: they are read by rows, their
   errors go straight into the answer. Where they are tied, to ask for one is to ask for both, and they share the codes.
2. What is quantized is never trained. It comes first in the list of adapters; others then stand beside its modules.
3. A run records these settings only: the base is quantized again when it is loaded, and gets the same codes.
4. `errors` tells for each layer how far its weights moved; a run writes them down, and `adapter.merge` makes a dense
   model of the very numbers that the quantized one computed with.

Legend: none; the mathematics is in lmcraft.adapt.quantized.
Proved by tests/unit/adapt/test_quantize.py and tests/contract/test_adapters.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field, model_validator
from torch import nn

from ..core.config import Strict
from ..core.errors import UserError
from .adapter import parts, targets
from .quantized import Packed, Quantized, QuantizedEmbedding, QuantizedLinear


class Config(Strict):
    """How the frozen base is stored."""

    kind: Literal["quantize"] = "quantize"
    bits: Literal[4, 8, 16] = Field(4, description="4 is NF4, 8 is int8 with a scale a row, 16 is bfloat16")
    block: int = Field(64, ge=8, description="weights that share a scale (4 bits); even")
    double: bool = Field(True, description="quantize the scales too (4 bits)")
    modules: tuple[str, ...] = Field(
        (), description="such as attn.q, mlp.up; default: every linear layer of the blocks"
    )
    also: tuple[Literal["embedding", "head"], ...] = Field((), description="quantize these besides")

    @model_validator(mode="after")
    def _even(self) -> Config:
        if self.block % 2:
            raise ValueError(f"two weights share a byte, so block must be even, not {self.block}")
        return self


@dataclass(frozen=True)
class Error:
    """What quantization did to one layer: RMS of the change over RMS of the weights, and its bytes before and after."""

    path: str
    bits: int
    relative_rms: float
    dense_bytes: int
    bytes: int


def apply(model: nn.Module, config: Config, name: str, tokenizer: Any = None) -> nn.Module:
    """The same model with frozen, quantized layers in the place of its dense ones.

    Raises:
        UserError: there are adapters already, a name fits nothing, or a layer has too few weights for its scales.
    """
    if parts(model):
        raise UserError(
            "the base can be quantized only before anything stands beside it", where=f"adapter {name}",
            fix="name quantize first in the list of adapters",
        )  # fmt: skip
    chosen = (
        targets(model, config.modules, (nn.Linear, nn.Embedding)) if config.modules else _of_blocks(model)
    )
    if config.also:
        chosen |= targets(model, config.also, (nn.Linear, nn.Embedding))
    if not chosen:
        raise UserError(
            f"a model of kind {model.config.kind} has no linear layers to quantize", where=f"adapter {name}"
        )
    asked, made = {id(module.weight) for module in chosen.values()}, {}
    for path, module in list(model.named_modules()):
        weight = getattr(module, "weight", None)
        if id(weight) not in asked:
            continue
        if id(weight) not in made:  # a tied head shares what was made of the embedding
            made[id(weight)] = Packed(weight, config.bits, config.block, config.double)
        model.set_submodule(path, _quantized(module, made[id(weight)]).train(model.training))
    return model


def _of_blocks(model: nn.Module) -> dict[str, nn.Module]:
    """The linear layers that stand in a numbered layer."""
    return {
        path: module
        for path, module in model.named_modules()
        if isinstance(module, nn.Linear) and any(word.isdecimal() for word in path.split("."))
    }


def _quantized(module: nn.Module, packed: Packed) -> Quantized:
    if isinstance(module, nn.Embedding):
        return QuantizedEmbedding(packed)
    bias = module.bias
    return QuantizedLinear(packed, None if bias is None else bias.requires_grad_(False))


def errors(model: nn.Module) -> list[Error]:
    """How far each quantized layer's weights are from what they were, in the order of the layers."""
    return [
        Error(path, m.packed.bits, m.packed.error, 4 * m.packed.shape.numel(), m.packed.bytes)
        for path, m in model.named_modules()
        if isinstance(m, Quantized)
    ]
