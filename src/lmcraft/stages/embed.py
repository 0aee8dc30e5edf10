"""Sentence embeddings from pairs that belong together: each text finds its partner among those of its group.

    S = source vectors · target vectorsᵀ / temperature
    loss = ½ (−Σ log softmax over targets S_ii  −  Σ log softmax over sources S_ii)

Contrastive learning with in-batch negatives (van den Oord et al., arXiv 1807.03748; Gao et al., arXiv 2104.08821), in
both directions as in CLIP (Radford et al., arXiv 2103.00020).

1. The other pairs of a group are the wrong answers. Groups are `group` successive rows of a batch whatever the size of
   the micro-batches (see Batch.split), so that size changes nothing; train.batch_size should be a multiple of it.
2. Partners with the same ids as the right one are no wrong answers.
3. Vectors have length 1, so S is the cosine; the temperature of 0.05 is that of Gao et al.

Legend: B rows, T positions, D width, G pairs of a group.
Proved by tests/contract/test_stages.py and tests/unit/stages/test_embed.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from ..core.config import Strict
from ..core.errors import UserError
from ..data.batch import IGNORE, Batch
from ..data.records import Parallel
from ..data.tokens import Document
from ..generate.reading import framed
from ..models.heads import around
from ..text.chat import ChatTemplate
from ..text.tokenizer import Tokenizer

MODEL = "encoder"
LR = 1e-4
CHAT = False
PACK = False
CHUNK = 1000


class Config(Strict):
    """Pooling, temperature, and how many pairs compete."""

    kind: Literal["embed"] = "embed"
    pooling: Literal["auto", "mean", "cls", "last"] = "auto"
    temperature: float = Field(0.05, gt=0)
    group: int = Field(16, gt=1, description="pairs among which each finds its partner")
    overflow: Literal["truncate", "drop"] = "truncate"


@dataclass
class Embed:
    """See the module's docstring."""

    config: Config
    facts: dict[str, Any]

    def ready(self, model: nn.Module, records: Sequence, tokenizer: Tokenizer) -> nn.Module:
        """The model with a head for embeddings.

        Raises:
            UserError: records that are no pairs, or a model that cannot have such a head.
        """
        for record in records:
            if not isinstance(record, Parallel):
                raise UserError(
                    f"embeddings are trained on pairs, not on {type(record).__name__.lower()} records",
                    where=str(getattr(record, "where", "")),
                    fix="give rows with `source` and `target` that belong together: question and answer, two wordings",
                )
        if getattr(model.config, "task", None) == "embedding" and model.config.normalized:
            return model
        pooling = self.config.pooling
        if pooling == "auto":
            pooling = getattr(model.config, "pooling", "last" if model.generates else "mean")
        return around(model, task="embedding", pooling=pooling)

    def documents(
        self, records: Sequence, tokenizer: Tokenizer, template: ChatTemplate, width: int, counts: Counter
    ) -> Iterator[Document]:
        """The first text of each pair, one target at its first position, and the second text beside it."""
        room = width - len(framed(tokenizer, []))
        for start in range(0, len(records), CHUNK):
            part = records[start : start + CHUNK]
            sources = tokenizer.encode_texts([record.source for record in part])
            targets = tokenizer.encode_texts([record.target for record in part])
            for record, source, target in zip(part, sources, targets, strict=True):
                if max(len(source), len(target)) > room:
                    if self.config.overflow == "drop":
                        counts["dropped, too long"] += 1
                        continue
                    counts["truncated"] += 1
                row = framed(tokenizer, source[:room])
                labels = [0] + [IGNORE] * (len(row) - 1)
                yield Document(row, None, record.where, labels, source=framed(tokenizer, target[:room]))

    def finish(self, batch: Batch, seeds: Sequence[int]) -> Batch:
        """The batch, never to be split inside a group."""
        return replace(batch, group=self.config.group)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Summed over the pairs; rows without target take no part."""
        assert batch.source is not None
        taking = (batch.targets_BT != IGNORE).any(dim=1)
        left_BD = model.head(model(batch.tokens_BT, batch.segments_BT)[:, 0])
        right_BD = model.head(model(batch.source.tokens_BS, batch.source.segments_BS)[:, 0])
        total = left_BD.new_zeros((), dtype=torch.promote_types(left_BD.dtype, torch.float32))
        for start in range(0, len(left_BD), self.config.group):
            part = torch.arange(start, min(start + self.config.group, len(left_BD)), device=left_BD.device)
            part = part[taking[part]]
            if len(part):
                total = total + self._group(left_BD[part], right_BD[part], batch, part)
        return total

    def _group(self, left_GD: Tensor, right_GD: Tensor, batch: Batch, part: Tensor) -> Tensor:
        wide = torch.promote_types(left_GD.dtype, torch.float32)
        scores_GG = left_GD.to(wide) @ right_GD.to(wide).T / self.config.temperature
        assert batch.source is not None
        same_GG = _same(batch.source.tokens_BS[part]) | _same(batch.tokens_BT[part])
        same_GG.fill_diagonal_(False)
        scores_GG = scores_GG.masked_fill(same_GG, float("-inf"))
        forth = scores_GG.log_softmax(dim=1).diagonal().sum()
        back = scores_GG.log_softmax(dim=0).diagonal().sum()
        return -(forth + back) / 2


def _same(tokens_GT: Tensor) -> Tensor:
    """Which rows hold the same ids, bool [G, G]."""
    return (tokens_GT[:, None] == tokens_GT[None]).all(dim=-1)


def build(config: Config) -> Embed:
    """The stage."""
    return Embed(config, {})
