"""The loss on held-out rows while training: same stage, same loss, no dropout, no random numbers used.

Proved by tests/contract/test_stages.py.
"""

from __future__ import annotations

import torch
from torch import nn

from ..data.loader import Loader
from .precision import computing


@torch.no_grad()
def held_out_loss(
    stage, model: nn.Module, loader: Loader, rows: int, batch_size: int, precision: str,
    micro_batch_size: int | None = None,
) -> float:  # fmt: skip
    """Mean loss per target, in nats, over the first `rows` rows, in batches as in training."""
    device = next(model.parameters()).device
    rows = min(rows, len(loader.rows))
    was_training = model.training
    model.eval()
    total, count = 0.0, 0
    for start in range(0, rows, batch_size):
        batch = loader.batch(list(range(start, min(start + batch_size, rows))))
        for micro in batch.split(micro_batch_size or batch_size):
            with computing(precision, device):
                total += float(stage.loss(model, micro.to(device)))
        count += batch.count
    model.train(was_training)
    return total / max(1, count)
