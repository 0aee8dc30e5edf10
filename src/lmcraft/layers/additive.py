"""Additive attention, and the recurrent layer that looks at the source before every step.

    e_ts = v · tanh(W s_{t−1} + U h_s);   α_t = softmax over s of e_t;   c_t = Σ_s α_ts h_s
    s_t = cell(y_t, [s_{t−1}; c_t])                          (Bahdanau, Cho, Bengio 2015, arXiv:1409.0473, appendix A)

1. U h_s does not depend on t and is computed once for all source positions; so are the products of the inputs y.
2. Padding takes no part: weights sum to 1 over the real source positions. A target without any source gets weights
   and context of zero.
3. With `record` set to a list, each call appends its weights, float32 [B, 1, T, S].

Legend: B rows, T target positions, S source positions, D width, E width of the source's vectors, A attention width,
G sums in front of the gates.
Proved by tests/unit/layers/test_additive.py and tests/parity/test_seq2seq.py.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .recurrent import Recurrent


class AdditiveAttention(nn.Module):
    """Weights of source positions from a state of width D and source vectors of width E."""

    def __init__(self, width: int, source_width: int, attention_width: int) -> None:
        super().__init__()
        self.query = nn.Linear(width, attention_width)
        self.key = nn.Linear(source_width, attention_width, bias=False)
        self.score = nn.Linear(attention_width, 1, bias=False)
        self.record: list[Tensor] | None = None

    def prepare(self, source_BSE: Tensor, real_BS: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What every step needs: source vectors [B, S, E], keys [B, S, A], and which are real, bool [B, S]."""
        source_BSE = source_BSE * real_BS[..., None]
        return source_BSE, self.key(source_BSE), real_BS

    def forward(self, state_BD: Tensor, source: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Context [B, E] and weights [B, S] for one state; `source` is what `prepare` gave."""
        source_BSE, keys_BSA, real_BS = source
        scores_BS = self.score(torch.tanh(keys_BSA + self.query(state_BD)[:, None])).squeeze(-1)
        # Not −∞: a source without tokens would give NaN.
        scores_BS = scores_BS.masked_fill(~real_BS, torch.finfo(scores_BS.dtype).min / 2)
        weights_BS = torch.softmax(scores_BS, dim=-1)
        return torch.bmm(weights_BS[:, None], source_BSE)[:, 0], weights_BS


class AttentiveRecurrent(nn.Module):
    """A recurrent layer of width D whose every step reads attention's context beside its last state."""

    def __init__(self, width: int, cell: str, source_width: int, attention_width: int) -> None:
        super().__init__()
        self.attention = AdditiveAttention(width, source_width, attention_width)
        self.cell = Recurrent(width, cell, beside=source_width)

    def states(
        self, x_BTD: Tensor, state: tuple[Tensor, ...], source: tuple[Tensor, Tensor, Tensor]
    ) -> tuple[tuple[Tensor, ...], Tensor]:
        """Every part of the state after each position, [B, T, D] each, and the contexts [B, T, E]."""
        steps, contexts, weights = [], [], []
        for input_BG in self.cell.input(x_BTD).unbind(dim=1):
            context_BE, weights_BS = self.attention(state[0], source)
            state = self.cell.step(
                input_BG + self.cell.hidden(torch.cat((state[0], context_BE), dim=-1)), state
            )
            steps.append(state)
            contexts.append(context_BE)
            weights.append(weights_BS)
        if self.attention.record is not None:
            real_B1S = source[2][:, None]
            weights_BTS = torch.stack(weights, dim=1) * real_B1S
            self.attention.record.append(weights_BTS.detach().float()[:, None])
        parts = tuple(torch.stack(part, dim=1) for part in zip(*steps, strict=True))
        return parts, torch.stack(contexts, dim=1)
