"""The loss on held-out rows while training: same stage, same loss, no dropout, no random numbers used.

Micro-batches are shared among the processes of a run; the last ones are read twice where they do not come out even,
since a sharded model computes only in all processes at once, and counted once.

Proved by tests/contract/test_stages.py and tests/parallel/.
"""

from __future__ import annotations

import torch
from torch import nn

from ..data.loader import Loader
from . import shards
from .parallel import ALONE, Ranks
from .precision import computing


@torch.no_grad()
def held_out_loss(
    stage, model: nn.Module, loader: Loader, rows: int, batch_size: int, precision: str,
    micro_batch_size: int | None = None, ranks: Ranks = ALONE,
) -> float:  # fmt: skip
    """Mean loss per target, in nats, over the first `rows` rows, in batches as in training."""
    device = next(model.parameters()).device
    rows = min(rows, len(loader.rows))
    was_training = model.training
    model.eval()
    total, count = 0.0, 0
    starts = range(0, rows, batch_size)
    batches = (loader.batch(list(range(start, min(start + batch_size, rows)))) for start in starts)
    micros = [micro for batch in batches for micro in batch.split(micro_batch_size or batch_size)]
    for place in range(ranks.rank, -(-len(micros) // ranks.world) * ranks.world, ranks.world):
        micro = micros[min(place, len(micros) - 1)]
        with computing(precision, device):
            loss = float(stage.loss(model, micro.to(device)))
        if place < len(micros):
            total, count = total + loss, count + micro.count
    shards.rest(model)
    model.train(was_training)
    total, count = ranks.sum(total, count)
    return total / max(1, count)
