"""Models that fill masks: every token of a text predicted while it is masked, one at a time.

loss_t = −log p(token_t | text with token t masked); their mean is the pseudo-log-likelihood (Salazar et al., arXiv
1910.14659).

1. Special tokens are never masked and have no loss. A mask that stands in the text is predicted where it is; what it
   hides is not known.
2. Hidden vectors after each block are those of the masked position, so the lens cannot copy what it sees.

Legend: B rows, T positions, D width.
Proved by tests/unit/inspect/test_masked.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from ..core.log import Progress
from ..generate import reading
from ..text.special import MASKS
from ..text.tokenizer import Tokenizer
from .lens import Stream

ROWS = 16


def framed(tokenizer: Tokenizer, text: str) -> list[int]:
    """The ids of a text between what begins and what ends it; a mask may be written as any vocabulary writes it."""
    for name in MASKS:
        text = text.replace(name, tokenizer.roles.mask or name)
    return reading.framed(tokenizer, tokenizer.encode(text))


@torch.no_grad()
def read_masked(
    model: nn.Module, tokenizer: Tokenizer, ids: Sequence[int], caught: Stream | None
) -> tuple[Tensor, list[Tensor], list[int | None]]:
    """Hidden vectors [T, D] of every position while it is masked, those after each block, and the tokens predicted.

    A special token is read as it is and has None among the tokens.
    """
    mask = tokenizer.mask
    assert mask is not None
    device = next(model.parameters()).device
    actual = [None if number in tokenizer.special_ids else number for number in ids]
    parts: list[Tensor] = []
    layers: list[list[Tensor]] = []
    with Progress(len(ids), "token", "mask") as progress:
        for start in range(0, len(ids), ROWS):
            places = list(range(start, min(start + ROWS, len(ids))))
            tokens_BT = torch.tensor([list(ids)] * len(places), device=device)
            for row, place in enumerate(places):
                if actual[place] is not None:
                    tokens_BT[row, place] = mask
            with nullcontext() if caught is None else caught:
                hidden_BTD = model(tokens_BT)
            rows = list(range(len(places)))
            parts.append(hidden_BTD[rows, places])
            layers.append([] if caught is None else [layer_BTD[rows, places] for layer_BTD in caught.layers])
            progress.update(advance=len(places))
    return torch.cat(parts), [torch.cat(same) for same in zip(*layers, strict=True)], actual
