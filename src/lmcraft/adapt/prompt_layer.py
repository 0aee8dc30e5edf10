"""A trained layer beside the embedding: the vector that it has for each token is added to the token's embedding.

    x = embedding(token) + layer(token),     layer(token) = E[token],   or (A B)[token] with a rank

This is prompt tuning as some introductions describe it, taken at its word. What the literature calls prompt tuning
puts learned vectors in front of the input instead: adapter=soft_prompt.

1. The layer starts at zero, so the model starts as its base, bit for bit.
2. Without a rank it has a vector for every token of the vocabulary, of which only those that occur are ever trained.
3. It stands beside the embedding, so embeddings that are scaled afterwards (Gemma, encoder-decoders) scale both.
4. A tied head is not touched: only what the model reads changes, not how it compares its answer.

Legend: V vocabulary, D width, R rank.
Proved by tests/unit/adapt/test_prompt_layer.py and tests/contract/test_adapters.py.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from ..core.config import Strict
from ..core.errors import UserError
from .adapter import Part, put_beside


class Config(Strict):
    """A trained layer beside the embedding."""

    kind: Literal["prompt_layer"] = "prompt_layer"
    rank: int | None = Field(None, gt=0, description="of the layer's table; default: full")


class PromptLayer(Part):
    """A table of zeros [V, D], or the product of one [V, R] and a map of zeros to D."""

    def __init__(self, embedding: nn.Module, rank: int | None) -> None:
        super().__init__()
        vocab, width = embedding.num_embeddings, embedding.embedding_dim
        like = embedding.weight
        self.table = nn.Embedding(vocab, rank or width, dtype=like.dtype, device=like.device)
        self.widen = (
            nn.Linear(rank, width, bias=False, dtype=like.dtype, device=like.device) if rank else None
        )
        if self.widen is None:
            nn.init.zeros_(self.table.weight)
        else:
            nn.init.normal_(self.table.weight, std=self.table.embedding_dim**-0.5)
            nn.init.zeros_(self.widen.weight)

    def forward(self, x: Tensor, output: Tensor, module: nn.Module) -> Tensor:
        return output + self.strength * self._vectors(x)

    def merged(self, weight: Tensor, module: nn.Module) -> Tensor:
        """The table [D, V] with the layer added to it; a head that is tied to it gets a matrix of its own."""
        every_V = torch.arange(module.num_embeddings, device=weight.device)
        return weight + self.strength * self._vectors(every_V).t().to(weight.dtype)

    def _vectors(self, ids: Tensor) -> Tensor:
        """[...] → [..., D]."""
        found = self.table(ids)
        return found if self.widen is None else self.widen(found)


def apply(model: nn.Module, config: Config, name: str, tokenizer: Any = None) -> nn.Module:
    """The same model with the layer beside its embedding; where source and target have one each, beside both.

    Raises:
        UserError: the rank is not below the width.
    """
    for embedding in _embeddings(model):
        width = embedding.embedding_dim
        if config.rank is not None and config.rank >= width:
            raise UserError(
                f"a rank of {config.rank} saves nothing", where=f"rank={config.rank}",
                why=f"the embedding has a width of {width}", fix=f"take less than {width}, or leave rank out",
            )  # fmt: skip
        put_beside(embedding, name, PromptLayer(embedding, config.rank))
    return model


def _embeddings(model: nn.Module) -> list[nn.Module]:
    source = getattr(model, "source_embedding", None)
    return [model.embedding] if source is None else [model.embedding, source]
