"""Sentence embeddings: how often a text's own partner is the nearest of all, in both directions.

1. Every source looks for its target among all targets of the data, and the other way round; nearness is the cosine.
   `recall_at_1` and `mrr` (mean of 1/rank) are means over both directions; more records make it harder, so their
   number is in the settings.
2. A candidate with the same text as the partner is no wrong answer; one that is exactly as near counts against it.
3. `pair_cosine` and `other_cosine` say how near partners and strangers are on average.

Legend: N pairs, B of them at a time, D width.
Proved by tests/unit/evals/test_retrieval.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.config import Strict
from ..core.errors import UserError
from ..data.records import Parallel
from ..generate.language_model import LanguageModel
from .evaluation import Result

CHUNK = 1024  # rows of similarities at a time


class Config(Strict):
    """Nothing to set."""

    kind: Literal["retrieval"] = "retrieval"


def run(lm: LanguageModel, records: Sequence[Parallel], config: Config) -> Result:
    """Embeds both sides of every pair; one sample a record."""
    for record in records:
        if not isinstance(record, Parallel):
            raise UserError("this evaluation needs pairs", where=str(record.where),
                            fix="give rows with `source` and `target` that belong together")  # fmt: skip
    if len(records) < 2:
        raise UserError("there is nothing to choose from", why="a partner is looked for among at least two")
    sources, targets = [r.source for r in records], [r.target for r in records]
    left_ND, right_ND = (F.normalize(lm.embed(texts), dim=-1) for texts in (sources, targets))
    forth, back = ranks(left_ND, right_ND, targets), ranks(right_ND, left_ND, sources)
    both = torch.tensor(forth + back, dtype=torch.float64)
    own_N = (left_ND * right_ND).sum(dim=-1).double()
    every = float(left_ND.sum(dim=0).double() @ right_ND.sum(dim=0).double())
    metrics = {
        "recall_at_1": float((both == 1).double().mean()), "mrr": float((1 / both).mean()),
        "pair_cosine": float(own_N.mean()),
        "other_cosine": (every - float(own_N.sum())) / (len(records) * (len(records) - 1)),
    }  # fmt: skip
    samples = [
        {
            "where": str(r.where),
            "source": r.source,
            "target": r.target,
            "rank": a,
            "rank_back": b,
            "cosine": c,
        }
        for r, a, b, c in zip(records, forth, back, own_N.tolist(), strict=True)
    ]
    return Result("retrieval", metrics, {"records": len(records), "candidates": len(records)}, samples)


def ranks(queries_ND: Tensor, candidates_ND: Tensor, texts: Sequence[str]) -> list[int]:
    """Place of each query's own candidate, from 1, among those with another text."""
    numbers: dict[str, int] = {}
    group_N = torch.tensor([numbers.setdefault(text, len(numbers)) for text in texts])
    found: list[int] = []
    for start in range(0, len(queries_ND), CHUNK):
        part = slice(start, start + CHUNK)
        cosine_BN = queries_ND[part] @ candidates_ND.T
        index = torch.arange(start, start + len(cosine_BN))
        own_B1 = cosine_BN[torch.arange(len(index)), index][:, None]
        others = group_N[None] != group_N[index][:, None]
        found += (((cosine_BN >= own_B1) & others).sum(dim=1) + 1).tolist()
    return found
