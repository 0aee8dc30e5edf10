"""Bottleneck adapters: small networks behind the branches of each block, before the residual.

    y = branch(x);   y = y + W_up f(W_down y)

Houlsby et al., arXiv 1902.00751, figure 2: behind attention and behind the feed-forward part; Pfeiffer et al., arXiv
2005.00247, keep the second only.

1. W_up starts at zero, so the model starts as its base, bit for bit; the papers start near it.
2. Biases are trained too, as in Houlsby's appendix; the layer norms are not (add `freeze` with `patterns: [*norm*]`).
3. Where a norm stands behind the branch (Gemma, post-norm models), the adapter stands before that norm.
4. A block with attention to a source has an adapter behind it too (`houlsby`).

Legend: D width, F width of the bottleneck.
Proved by tests/unit/adapt/test_bottleneck.py and tests/contract/test_adapters.py.
"""

from __future__ import annotations

from typing import Any, Literal

import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from ..core.config import Strict
from ..core.errors import UserError
from .adapter import Part, put_beside

BEHIND = {"houlsby": ("attn", "cross", "mlp"), "pfeiffer": ("mlp",)}
ACTIVATIONS = {"relu": F.relu, "gelu": F.gelu, "silu": F.silu}

LR = 1e-3


class Config(Strict):
    """Adapter modules between the layers."""

    kind: Literal["bottleneck"] = "bottleneck"
    variant: Literal["houlsby", "pfeiffer"] = Field(
        "pfeiffer", description="behind every branch, or behind the mlp"
    )
    width: int | None = Field(None, gt=0, description="of the bottleneck; default: the model's / reduction")
    reduction: float = Field(16.0, ge=1, description="the model's width over that of the bottleneck")
    activation: Literal["relu", "gelu", "silu"] = "relu"

    @model_validator(mode="after")
    def _one_size(self) -> Config:
        if self.width is not None and "reduction" in self.model_fields_set and self.reduction != 16.0:
            raise ValueError("give width or reduction, not both")
        return self


class Bottleneck(Part):
    """Down to a small width, an activation, and up again; starts as zero."""

    def __init__(self, width: int, narrow: int, activation: str, like: Tensor) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[activation]
        self.down = nn.Linear(width, narrow, dtype=like.dtype, device=like.device)
        self.up = nn.Linear(narrow, width, dtype=like.dtype, device=like.device)
        nn.init.normal_(self.down.weight, std=width**-0.5)
        for zero in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(zero)

    def forward(self, x: Tensor, output: Tensor, module: nn.Module) -> Tensor:
        return output + self.strength * self.up(self.activation(self.down(output)))


def apply(model: nn.Module, config: Config, name: str, tokenizer: Any = None) -> nn.Module:
    """The same model with adapter modules behind its branches.

    Raises:
        UserError: the model has no such branches, or the bottleneck is none.
    """
    body = getattr(model, "body", model)
    branches = [module for path, module in body.named_modules() if _ends(path) in BEHIND[config.variant]]
    if not branches:
        raise UserError(
            f"a model of kind {body.config.kind} takes no bottleneck adapters", where="adapter.kind=bottleneck",
            why="it has no blocks with attention and a feed-forward part for them to stand behind",
            fix="take adapter=lora, prompt_layer, soft_prompt or freeze",
        )  # fmt: skip
    width = body.config.width
    narrow = config.width or max(1, round(width / config.reduction))
    if narrow >= width:
        raise UserError(
            f"a bottleneck of {narrow} is none", where=f"width={narrow}",
            why=f"the model has a width of {width}", fix=f"take less than {width}",
        )  # fmt: skip
    for branch in branches:
        put_beside(branch, name, Bottleneck(width, narrow, config.activation, body.embedding.weight))
    return model


def _ends(path: str) -> str:
    """The last word of a path, or nothing for what belongs to another adapter."""
    return "" if ".beside." in f".{path}" else path.rsplit(".", 1)[-1]
