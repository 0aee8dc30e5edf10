"""A world so small that everything in it is known: all answers, their rewards, the best policy.

Five letters and an end, at most four tokens: 156 answers with an end and 625 without, for each of four prompts (the
letters 0 to 3). The reward is 0.5 for each letter that is the prompt's, 0.5 more where first and last letter agree, and
1 less without an end. Best policy: π*(y|x) = ref(y|x)·exp(r(x, y)/β)/Z(x), the optimum of E r − β·KL(π ‖ ref).

Legend: B rows, T positions, V vocabulary, Y answers of a prompt, N rows for all prompts and answers.
"""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from lmcraft.data.batch import IGNORE, Batch
from lmcraft.layers.source import Source
from lmcraft.train.logprobs import answer_logprobs

LETTERS, END, LONGEST, PROMPTS = 5, 5, 4, 4
# Before the prompt stands an end: rotary attention cannot count equal letters unless something else comes first.
BEGIN = 2
PLACES = BEGIN + LONGEST


def answers() -> list[tuple[int, ...]]:
    """All of them, those that end first."""
    every = [y for n in range(LONGEST) for y in itertools.product(range(LETTERS), repeat=n)]
    return [(*y, END) for y in every] + [*itertools.product(range(LETTERS), repeat=LONGEST)]


def reward(prompt: int, answer: tuple[int, ...]) -> float:
    """As the module's docstring says."""
    letters = [token for token in answer if token != END]
    echo = len(letters) > 1 and letters[0] == letters[-1]
    return 0.5 * letters.count(prompt) + 0.5 * echo - (END not in answer)


def code(row: tuple[int, ...]) -> int:
    """The number of a beginning."""
    return sum((token + 1) * (END + 2) ** place for place, token in enumerate(row))


class Table(nn.Module):
    """A policy, or the body of a reward model, with numbers of its own for every beginning of a row."""

    generates, reads_source, max_length = True, False, PLACES

    def __init__(self, width: int, seed: int) -> None:
        super().__init__()
        rows = [(END, p, *y) for p in range(PROMPTS) for y in answers()]
        known = sorted({0, *(code(row[: n + 1]) for row in rows for n in range(len(row)))})
        place_of = torch.zeros((END + 2) ** PLACES, dtype=torch.long)
        place_of[torch.tensor(known)] = torch.arange(len(known))
        self.register_buffer("place_of", place_of)
        draw = torch.Generator().manual_seed(seed)
        numbers = torch.randn(len(known), width, generator=draw, dtype=torch.float64)
        self.embedding = nn.Embedding.from_pretrained(numbers, freeze=False)
        self.config = SimpleNamespace(kind="table", width=width, vocab=END + 1, context=PLACES)

    def forward(self, tokens_BT: Tensor, segments_BT: Tensor | None = None, memory: None = None) -> Tensor:
        """The numbers of each beginning, [B, T, V]."""
        digits_BT = (tokens_BT + 1) * (END + 2) ** torch.arange(tokens_BT.shape[1])
        return self.embedding(self.place_of[digits_BT.cumsum(dim=1).clamp(max=len(self.place_of) - 1)])

    def head(self, hidden: Tensor) -> Tensor:
        """They are logits already."""
        return hidden


class World:
    """Answers, rewards and pairs of the world, and how far a policy is from the best one."""

    def __init__(self) -> None:
        self.answers = answers()
        assert len(self.answers) == 781
        rows = [(END, p, *y) for p in range(PROMPTS) for y in self.answers]
        self.lengths_N = torch.tensor([len(row) for row in rows])
        self.tokens_NT = torch.tensor([[*row, *[0] * (PLACES - len(row))] for row in rows])
        self.segments_NT = (torch.arange(PLACES) < self.lengths_N[:, None]).long()
        found = [reward(p, y) for p in range(PROMPTS) for y in self.answers]
        self.rewards_N = torch.tensor(found, dtype=torch.float64)

    def logprobs(self, policy: nn.Module) -> Tensor:
        """log π of every answer, [PROMPTS, Y]."""
        mask_NT = (self.segments_NT == 1) & (torch.arange(PLACES) >= BEGIN)
        hidden_NTD = policy(self.tokens_NT, self.segments_NT)
        return answer_logprobs(policy, hidden_NTD, self.tokens_NT, mask_NT).view(PROMPTS, -1)

    @torch.no_grad()
    def best(self, reference: nn.Module, beta: float) -> Tensor:
        """log π* of every answer, [PROMPTS, Y]."""
        logits = self.logprobs(reference).double() + self.rewards_N.view(PROMPTS, -1) / beta
        return logits.log_softmax(dim=1)

    @torch.no_grad()
    def distance(self, policy: nn.Module, best: Tensor) -> float:
        """KL(π ‖ π*) in nats, mean over prompts."""
        logs = self.logprobs(policy).double()
        torch.testing.assert_close(logs.exp().sum(dim=1), torch.ones(PROMPTS).double(), rtol=0, atol=1e-5)
        return float((logs.exp() * (logs - best)).sum(dim=1).mean())

    def pairs(self, others: int, seed: int = 0) -> tuple[Tensor, Tensor]:
        """Pairs of places among the N rows that join all answers of a prompt, `others` for each; each [pairs]."""
        draw, count = torch.Generator().manual_seed(seed), len(self.answers)
        left, right = [], []
        for prompt in range(PROMPTS):
            for _ in range(others):
                round_trip = torch.randperm(count, generator=draw) + prompt * count
                left.append(round_trip)
                right.append(round_trip.roll(1))
        return torch.cat(left), torch.cat(right)

    def batch(self, left: Tensor, right: Tensor, weights: Tensor | None = None) -> Batch:
        """Preferences as the stages read them; `weights` (default: the exact chance that the left one wins)."""
        if weights is None:
            weights = torch.sigmoid(self.rewards_N[left] - self.rewards_N[right])
        targets_BT = torch.full((len(left), PLACES), IGNORE)
        targets_BT[:, BEGIN] = 0
        source = Source(self.tokens_NT[right], self.segments_NT[right])
        signals = {"margin": torch.zeros(len(left), dtype=torch.float64), "weight": weights}
        return Batch(self.tokens_NT[left], targets_BT, self.segments_NT[left], [], source, 1, signals)

    def both_ways(self, others: int) -> Batch:
        """Every pair in both directions, with the exact chances as weights: the population loss of raters."""
        left, right = self.pairs(others)
        return self.batch(torch.cat((left, right)), torch.cat((right, left)))


@pytest.fixture(scope="session")
def world() -> World:
    """The one there is."""
    torch.set_num_threads(1)
    return World()


@pytest.fixture(scope="session")
def table() -> type[Table]:
    """Table(width, seed)."""
    return Table
