"""Log-probabilities of single tokens, with gradients, without ever holding all logits: for PPO, DPO and their kin.

    log π(token) = logits[token]/τ − logsumexp(logits/τ)

1. `loss.py` makes gradients together with a loss of which it knows the form. Here the caller goes on computing with
   each token's number, so its gradient is known only later: the head runs some rows at a time, its logits are thrown
   away and made again in the backward (Chen et al., arXiv 1604.06174). One chunk of logits is the largest that is held.
2. The temperature divides logits before anything else, as in sampling, for old, new and reference policy alike.
3. Sums and softmax are in float32 whatever the precision around them (float64 stays float64).

Legend: B rows, T positions, D width, N trained positions, V vocabulary.
Proved by tests/unit/train/test_logprobs.py.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..data.batch import IGNORE
from ..models.model import Model
from .loss import places, rows_of


def token_logprobs(model: Model, hidden_BTD: Tensor, targets_BT: Tensor, temperature: float = 1.0) -> Tensor:
    """log π of each target at its position, in nats, [B, T]; 0 where it is IGNORE.

    In float32, or in float64 if the hidden vectors are.
    """
    places_N, targets_N = places(targets_BT)
    hidden_ND = hidden_BTD.flatten(0, 1)[places_N]
    with torch.no_grad():
        rows = rows_of(model.head(hidden_ND[:1]).shape[-1])

    def chunk(hidden_ND: Tensor, targets_N: Tensor) -> Tensor:
        logits_NV = model.head(hidden_ND)
        logits_NV = logits_NV.to(torch.promote_types(logits_NV.dtype, torch.float32))
        if temperature != 1:
            logits_NV = logits_NV / temperature
        return logits_NV.gather(1, targets_N.clamp(min=0)[:, None])[:, 0] - logits_NV.logsumexp(dim=-1)

    parts = zip(hidden_ND.split(rows), targets_N.split(rows), strict=True)
    found_N = torch.cat([checkpoint(chunk, h, t, use_reentrant=False) for h, t in parts])
    # Rows that only fill up (see `places`) name position 0 and add nothing to it.
    found_N = found_N.masked_fill(targets_N == IGNORE, 0.0)
    return found_N.new_zeros(targets_BT.numel()).index_add(0, places_N, found_N).view(targets_BT.shape)


def next_targets(tokens_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """The targets with which each position predicts the token after it, where the mask has that token; [B, T]."""
    targets_BT = torch.full_like(tokens_BT, IGNORE)
    targets_BT[:, :-1] = tokens_BT[:, 1:].masked_fill(~mask_BT[:, 1:], IGNORE)
    return targets_BT


def answer_logprobs(
    model: Model, hidden_BTD: Tensor, tokens_BT: Tensor, mask_BT: Tensor, temperature: float = 1.0
) -> Tensor:
    """log π of each row's answer, [B]: the sum over the tokens that the bool mask has, given all before them.

    A first token has nothing before it and counts as given.
    """
    return token_logprobs(model, hidden_BTD, next_targets(tokens_BT, mask_BT), temperature).sum(dim=1)
