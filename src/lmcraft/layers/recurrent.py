"""Recurrent layers written out step by step: the Elman network and the long short-term memory.

RNN:  h' = tanh(W_x x + W_h h + b)
LSTM: i, f, o = sigmoid, g = tanh of (W_x x + W_h h + b);  c' = f·c + i·g;  h' = o·tanh(c')
(Elman 1990; Hochreiter and Schmidhuber 1997; Gers et al. 2000 for the forget gate.)

1. The input products of all positions are one matrix product; only the hidden products run in sequence.
2. The state is set to zero where a new document begins in a packed row, and does not move over padding.
3. Gates stand in the order i, f, g, o, as in `torch.nn.LSTM`. The forget gate starts at bias 1, so that the network
   remembers before it has learned to (Jozefowicz et al. 2015).

Legend: B rows, T positions, D width.
Proved by tests/parity/test_recurrent.py and tests/parity/test_seq2seq.py.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Recurrent(nn.Module):
    """One recurrent layer of width D.

    Args:
        cell: `rnn` or `lstm`.
        inputs: width of what it reads; default: D.
        beside: width of a second vector that the step reads beside the last state, such as attention's context.
    """

    def __init__(self, width: int, cell: str, inputs: int | None = None, beside: int = 0) -> None:
        super().__init__()
        self.cell = cell
        gates = 4 if cell == "lstm" else 1
        self.input = nn.Linear(inputs or width, gates * width)
        self.hidden = nn.Linear(width + beside, gates * width, bias=False)
        bound = width**-0.5
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)
        if cell == "lstm":
            with torch.no_grad():
                self.input.bias[width : 2 * width] = 1.0

    @property
    def parts(self) -> int:
        """How many vectors the state holds."""
        return 2 if self.cell == "lstm" else 1

    def forward(
        self, x_BTD: Tensor, state: tuple[Tensor, ...], segments_BT: Tensor | None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Outputs of all positions [B, T, D], and the state after the last real one."""
        if segments_BT is None:
            parts = self.states(x_BTD, state)
            return parts[0], tuple(part_BTD[:, -1] for part_BTD in parts)
        stay_BT = _same_document(segments_BT)
        outputs = []
        for t, input_BG in enumerate(self.input(x_BTD).unbind(dim=1)):
            before = state
            if t > 0:
                before = tuple(part_BD * stay_BT[:, t, None] for part_BD in state)
            after = self.step(input_BG + self.hidden(before[0]), before)
            outputs.append(after[0])
            real_B1 = segments_BT[:, t, None] != 0
            state = tuple(torch.where(real_B1, new, old) for new, old in zip(after, state, strict=True))
        return torch.stack(outputs, dim=1), state

    def states(self, x_BTD: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Every part of the state after each position, [B, T, D] each, where each row is one document."""
        steps = []
        for input_BG in self.input(x_BTD).unbind(dim=1):
            state = self.step(input_BG + self.hidden(state[0]), state)
            steps.append(state)
        return tuple(torch.stack(part, dim=1) for part in zip(*steps, strict=True))

    def step(self, pre_BG: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The next state from the sums in front of the gates and the last state."""
        if self.cell == "rnn":
            return (torch.tanh(pre_BG),)
        i_BD, f_BD, g_BD, o_BD = pre_BG.chunk(4, dim=-1)
        c_BD = torch.sigmoid(f_BD) * state[1] + torch.sigmoid(i_BD) * torch.tanh(g_BD)
        return torch.sigmoid(o_BD) * torch.tanh(c_BD), c_BD


def _same_document(segments_BT: Tensor) -> Tensor:
    """1 where a position continues the document before it, 0 where a new one begins; float [B, T]."""
    same = torch.ones_like(segments_BT, dtype=torch.float32)
    same[:, 1:] = (segments_BT[:, 1:] == segments_BT[:, :-1]).float()
    return same
