"""What a prediction depends on, for models without attention: gradients with respect to the embedded tokens.

influence(t, s) ∝ ‖ ∂ log p(y_t) / ∂ x_s ‖, each row scaled to sum 1 (Simonyan et al., arXiv 1312.6034; for text Li et
al., arXiv 1506.01066).

1. y_t is the token that came, or where none did the likeliest one.
2. The embedded tokens are what the model's embeddings return for the ids given to it, whichever module that is.

Legend: B rows, T target positions, S source positions, M positions of either, D width, H = 1.
Proved by tests/unit/inspect/test_influence.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..core.log import Progress
from ..layers.source import Source
from .record import CROSS, SELF, Map


def influence(
    model: nn.Module, tokens_BT: Tensor, source: Source | None, actual: Sequence[int | None]
) -> list[Map]:
    """One map [1, T, T] of the target on itself and, if there is a source, one [1, T, S] of the source on the target.

    The rows of both together sum to 1.
    """
    sides = [(SELF, tokens_BT)] + ([] if source is None else [(CROSS, source.tokens_BS)])
    embedded: dict[str, Tensor] = {}

    def keep(_: nn.Module, arguments: tuple[Any, ...], output: Tensor) -> None:
        for side, ids in sides:
            if side not in embedded and arguments[0] is ids:
                embedded[side] = output

    handles = [m.register_forward_hook(keep) for m in model.modules() if isinstance(m, nn.Embedding)]
    try:
        with torch.enable_grad():
            hidden_BTD = model(tokens_BT, **({} if source is None else {"source": source}))
            logprobs_TV = torch.log_softmax(model.head(hidden_BTD[0]).float(), dim=-1)
            best = logprobs_TV.argmax(dim=-1).tolist()
            chosen = [logprobs_TV[t, best[t] if token is None else token] for t, token in enumerate(actual)]
            rows: dict[str, list[Tensor]] = {side: [] for side in embedded}
            with Progress(len(chosen), "position", "gradients") as progress:
                for value in chosen:
                    found = torch.autograd.grad(
                        value, list(embedded.values()), retain_graph=True, allow_unused=True
                    )
                    for side, gradient in zip(embedded, found, strict=True):
                        norms = (
                            torch.zeros(embedded[side].shape[1])
                            if gradient is None
                            else gradient[0].norm(dim=-1)
                        )
                        rows[side].append(norms.detach().float().cpu())
                    progress.update()
    finally:
        for handle in handles:
            handle.remove()
    tables = {side: torch.stack(parts) for side, parts in rows.items()}
    sums_T1 = sum(table.sum(dim=-1, keepdim=True) for table in tables.values())
    return [
        Map("gradient", side, 0, (table / sums_T1.clamp(min=1e-30))[None]) for side, table in tables.items()
    ]
