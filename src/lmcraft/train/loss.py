"""Summed cross entropy over the trained targets of a batch.

    −Σ log softmax(logits)[target];  with smoothing ε:  −Σ Σ_v q(v) log softmax(logits)[v],  q = (1−ε)·target + ε/V

1. The loss is a sum; only the training loop divides, by the number of targets of the whole optimizer step.
2. The head runs on trained positions only: when a model is tuned on answers, most logits are never needed. Their number
   is rounded up, because logits of a new size at every step would scatter over the heap and memory would grow.
3. Logits are compared in float32 whatever the precision around them, some rows at a time, and their gradient
   softmax − one-hot is made in the same pass. So no float32 copy of all logits exists, and the slow backward of
   log-softmax on CPUs (measured at a sixth of a training step) is not needed.
4. Label smoothing (Szegedy et al., arXiv 1512.00567) spreads ε of the target over the whole vocabulary.

Legend: B rows, T positions, D width, N trained positions, V vocabulary.
Proved by tests/invariance/test_accumulation.py and tests/unit/train/test_loss.py.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..data.batch import IGNORE
from ..models.model import Model

ROWS = 128
CHUNK_ELEMENTS = 1 << 20
CHUNK_ROWS = (
    1024  # of logits at a time where no gradient needs them: 16 windows of 1,024 tokens would fill gigabytes
)


def summed_cross_entropy(
    model: Model, hidden_BTD: Tensor, targets_BT: Tensor, smoothing: float = 0.0
) -> Tensor:
    """−Σ log p(target) over all targets that are not IGNORE, labels smoothed; a scalar in nats."""
    hidden_ND, targets_N = _trained(hidden_BTD, targets_BT)
    return _SummedCrossEntropy.apply(model.head(hidden_ND), targets_N, smoothing)


def _trained(hidden_BTD: Tensor, targets_BT: Tensor) -> tuple[Tensor, Tensor]:
    """Hidden vectors and targets of the trained positions, filled up to a multiple of ROWS with IGNORE."""
    places_N = (targets_BT.flatten() != IGNORE).nonzero()[:, 0]
    fill = min(-len(places_N) % ROWS, targets_BT.numel() - len(places_N))
    places_N = torch.cat((places_N, places_N.new_zeros(fill)))
    targets_N = targets_BT.flatten()[places_N]
    targets_N[len(places_N) - fill :] = IGNORE
    return hidden_BTD.flatten(0, 1)[places_N], targets_N


def cross_entropies(model: Model, hidden_BTD: Tensor, targets_BT: Tensor) -> Tensor:
    """−log p(target) of every trained position in reading order, float32 [N]."""
    trained_BT = targets_BT != IGNORE
    hidden_ND, targets_N = hidden_BTD[trained_BT], targets_BT[trained_BT]
    parts = zip(hidden_ND.split(CHUNK_ROWS), targets_N.split(CHUNK_ROWS), strict=True)
    return torch.cat([F.cross_entropy(model.head(h).float(), t, reduction="none") for h, t in parts])


class _SummedCrossEntropy(torch.autograd.Function):
    """Loss and gradient of the logits in one pass over chunks of rows."""

    @staticmethod
    def forward(ctx: Any, logits_NV: Tensor, targets_N: Tensor, smoothing: float) -> Tensor:
        needs_gradient = ctx.needs_input_grad[0]
        gradient_NV = torch.empty_like(logits_NV) if needs_gradient else None
        total = logits_NV.new_zeros((), dtype=torch.promote_types(logits_NV.dtype, torch.float32))
        rows = max(1, CHUNK_ELEMENTS // logits_NV.shape[-1])
        for start in range(0, len(logits_NV), rows):
            part = slice(start, start + rows)
            chunk_NV = logits_NV[part].to(total.dtype, copy=True)
            target_N1 = targets_N[part, None]
            trained_N1 = target_N1 != IGNORE
            target_N1 = target_N1.clamp(min=0)
            chunk_NV -= chunk_NV.logsumexp(dim=-1, keepdim=True)
            total -= chunk_NV.gather(1, target_N1)[trained_N1].sum() * (1 - smoothing)
            if smoothing:
                total -= (chunk_NV.mean(dim=1, keepdim=True) * trained_N1).sum() * smoothing
            if gradient_NV is not None:
                chunk_NV.exp_().scatter_add_(1, target_N1, chunk_NV.new_full(target_N1.shape, smoothing - 1))
                if smoothing:
                    chunk_NV -= smoothing / chunk_NV.shape[1]
                gradient_NV[part] = chunk_NV.mul_(trained_N1)
        ctx.gradient_NV = gradient_NV
        return total

    @staticmethod
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor, None, None]:
        gradient_NV, ctx.gradient_NV = ctx.gradient_NV, None
        assert gradient_NV is not None, (
            "backward ran through this loss before; its gradient is made only once"
        )
        return gradient_NV.mul_(scale), None, None
