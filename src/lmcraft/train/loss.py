"""Summed cross entropy over the trained targets of a batch, without ever holding all logits.

    −Σ log softmax(logits)[target];  with smoothing ε:  −Σ Σ_v q(v) log softmax(logits)[v],  q = (1−ε)·target + ε/V

1. The loss is a sum; only the training loop divides, by the number of targets of the whole optimizer step.
2. The head runs on trained positions only: when a model is tuned on answers, most logits are never needed.
3. Head and loss run some rows at a time (Cut Cross-Entropy, Wijmans et al., arXiv 2411.09009, has the idea), and all
   gradients – of the hidden vectors, and of whatever the head trains: its matrix, which may be the embedding's, LoRA
   beside it, a pooler – are made in the same pass, from softmax − one-hot. So nothing is computed twice, and one chunk
   of logits and its gradient are the largest that is held.
4. Rows of a chunk are a power of two, and all rows a multiple of ROWS (or of a chunk), because logits of a new size at
   every step would scatter over the heap and memory would grow.
5. Logits are compared in float32 whatever the precision around them; log-softmax and its gradient are made by hand,
   since the backward of log-softmax is slow on CPUs (measured at a sixth of a training step).
6. Label smoothing (Szegedy et al., arXiv 1512.00567) spreads ε of the target over the whole vocabulary.

Legend: B rows, T positions, D width, N trained positions, V vocabulary.
Proved by tests/invariance/test_accumulation.py, tests/unit/train/test_loss.py and tests/unit/train/test_chunks.py.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..data.batch import IGNORE
from ..models.model import Model

ROWS = 128
HEAD_ELEMENTS = 1 << 23  # logits of one chunk: 32 MiB in float32
SOFTMAX_ELEMENTS = 1 << 20  # of these, what is compared at a time: fits a cache


def summed_cross_entropy(
    model: Model, hidden_BTD: Tensor, targets_BT: Tensor, smoothing: float = 0.0
) -> Tensor:
    """−Σ log p(target) over all targets that are not IGNORE, labels smoothed; a scalar in nats."""
    places_N, targets_N = places(targets_BT)
    hidden_ND = hidden_BTD.flatten(0, 1)[places_N]
    vocabulary, leaves = _probe(model, hidden_ND)
    needed = [hidden_ND] if hidden_ND.requires_grad else []
    total, gradients = _loss_and_gradients(
        model, hidden_ND, targets_N, smoothing, rows_of(vocabulary), leaves
    )
    return _Made.apply(total, gradients, *needed, *leaves)


def cross_entropies(model: Model, hidden_BTD: Tensor, targets_BT: Tensor) -> Tensor:
    """−log p(target) of every trained position in reading order, float32 [N]; for measuring, not for training."""
    trained_BT = targets_BT != IGNORE
    hidden_ND, targets_N = hidden_BTD[trained_BT], targets_BT[trained_BT]
    rows = rows_of(_probe(model, hidden_ND)[0])
    parts = zip(hidden_ND.split(rows), targets_N.split(rows), strict=True)
    return torch.cat([F.cross_entropy(model.head(h).float(), t, reduction="none") for h, t in parts])


def rows_of(vocabulary: int) -> int:
    """Rows of a chunk: the largest power of two whose logits stay within HEAD_ELEMENTS."""
    return 1 << (max(1, HEAD_ELEMENTS // vocabulary).bit_length() - 1)


def places(targets_BT: Tensor) -> tuple[Tensor, Tensor]:
    """Numbers of the trained positions among all B·T, and their targets; both [N].

    They are filled up to a multiple of ROWS with position 0 and IGNORE.
    """
    places_N = (targets_BT.flatten() != IGNORE).nonzero()[:, 0]
    fill = min(-len(places_N) % ROWS, targets_BT.numel() - len(places_N))
    places_N = torch.cat((places_N, places_N.new_zeros(fill)))
    targets_N = targets_BT.flatten()[places_N]
    targets_N[len(places_N) - fill :] = IGNORE
    return places_N, targets_N


def _probe(model: Model, hidden_ND: Tensor) -> tuple[int, list[Tensor]]:
    """How many logits the head gives, and the tensors that are trained in it, from one row."""
    logits_1V = model.head(hidden_ND[:1].detach())
    found: dict[int, Tensor] = {}
    nodes, seen = [logits_1V.grad_fn], set()
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):  # where gradients of a leaf are added up
            found[id(node.variable)] = node.variable
        nodes += [before for before, _ in node.next_functions]
    return logits_1V.shape[-1], list(found.values())


def _loss_and_gradients(
    model: Model, hidden_ND: Tensor, targets_N: Tensor, smoothing: float, rows: int, leaves: list[Tensor]
) -> tuple[Tensor, list[Tensor]]:
    """The loss, and its gradients with respect to `hidden_ND` (if it needs one) and the leaves."""
    needs_hidden = torch.is_grad_enabled() and hidden_ND.requires_grad
    gradient_ND = torch.empty_like(hidden_ND) if needs_hidden else None
    sums: list[Tensor] = []
    total = hidden_ND.new_zeros((), dtype=torch.promote_types(hidden_ND.dtype, torch.float32))
    for start in range(0, len(hidden_ND), rows):
        part = slice(start, start + rows)
        chunk_ND = hidden_ND[part].detach().requires_grad_(needs_hidden)
        loss, made = _chunk(model, chunk_ND, targets_N[part], smoothing, leaves)
        total += loss
        if gradient_ND is not None:
            gradient_ND[part] = made.pop(0)
        sums = [a.add_(b) for a, b in zip(sums, made, strict=True)] if sums else made
    sums = sums or [torch.zeros_like(leaf) for leaf in leaves]  # where there is no row at all
    return total, ([] if gradient_ND is None else [gradient_ND]) + sums


def _chunk(
    model: Model, chunk_ND: Tensor, targets_N: Tensor, smoothing: float, leaves: list[Tensor]
) -> tuple[Tensor, list[Tensor]]:
    """Loss and gradients of some rows; their logits are gone when it returns."""
    logits_NV = model.head(chunk_ND)
    loss, gradient_NV = _softmax(logits_NV.detach(), targets_N, smoothing, logits_NV.requires_grad)
    if gradient_NV is None:
        return loss, []
    inputs = [chunk_ND, *leaves] if chunk_ND.requires_grad else leaves
    with torch.autocast(chunk_ND.device.type, enabled=False):
        return loss, [*torch.autograd.grad(logits_NV, inputs, gradient_NV)]


def _softmax(
    logits_NV: Tensor, targets_N: Tensor, smoothing: float, needs_gradient: bool
) -> tuple[Tensor, Tensor | None]:
    """Loss and gradient of the logits in one pass over groups of rows."""
    gradient_NV = torch.empty_like(logits_NV) if needs_gradient else None
    total = logits_NV.new_zeros((), dtype=torch.promote_types(logits_NV.dtype, torch.float32))
    rows = max(1, SOFTMAX_ELEMENTS // logits_NV.shape[-1])
    for start in range(0, len(logits_NV), rows):
        part = slice(start, start + rows)
        group_NV = logits_NV[part].to(total.dtype, copy=True)
        target_N1 = targets_N[part, None]
        trained_N1 = target_N1 != IGNORE
        target_N1 = target_N1.clamp(min=0)
        group_NV -= group_NV.logsumexp(dim=-1, keepdim=True)
        total -= group_NV.gather(1, target_N1)[trained_N1].sum() * (1 - smoothing)
        if smoothing:
            total -= (group_NV.mean(dim=1, keepdim=True) * trained_N1).sum() * smoothing
        if gradient_NV is not None:
            group_NV.exp_().scatter_add_(1, target_N1, group_NV.new_full(target_N1.shape, smoothing - 1))
            if smoothing:
                group_NV -= smoothing / group_NV.shape[1]
            gradient_NV[part] = group_NV.mul_(trained_N1)
    return total, gradient_NV


class _Made(torch.autograd.Function):
    """A loss whose gradients are there already."""

    @staticmethod
    def forward(ctx: Any, total: Tensor, gradients: list[Tensor], *inputs: Tensor) -> Tensor:
        ctx.gradients = gradients
        return total

    @staticmethod
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor | None, ...]:
        gradients, ctx.gradients = ctx.gradients, None
        assert gradients is not None, (
            "backward ran through this loss before; its gradients are made only once"
        )
        return None, None, *(gradient.mul_(scale) for gradient in gradients)
