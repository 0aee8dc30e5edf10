"""A world small enough to write down: five letters, an end, at most four tokens, four prompts; its optimum is known.

    J(π) = E_x E_{y~π}[r(x, y)] − β KL(π ‖ ref)      π*(y|x) = ref(y|x) exp(r(x, y)/β) / Z(x)
    J* − J(π) = β E_x KL(π ‖ π*)  for every π

Legend: B rows, T positions, V vocabulary, X prompts, Y answers.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections import Counter
from functools import cached_property
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from lmcraft.data.batch import IGNORE, Batch
from lmcraft.data.loader import Loader
from lmcraft.data.records import Where
from lmcraft.data.tokens import Document, write
from lmcraft.generate.engine import Completion
from lmcraft.generate.language_model import LanguageModel
from lmcraft.models import decoder
from lmcraft.models import model as models
from lmcraft.rl import episodes
from lmcraft.rl.experience import Asked, Experience
from lmcraft.train import loop, optim
from lmcraft.train.logprobs import token_logprobs

LETTERS, EOS, LONGEST, PROMPTS = 5, 5, 4, 4
VOCABULARY = LETTERS + 1


class Letters:
    """Stands in for a tokenizer."""

    eos, end_of_turn, size = EOS, None, VOCABULARY

    def decode(self, ids, skip_special: bool = True) -> str:
        return "".join("abcde"[i] for i in ids if i < LETTERS)


def asked(prompt: int) -> list[int]:
    """The ids of a prompt. Rotary attention cannot count equal letters unless something else stands before them."""
    return [EOS, prompt]


def every_answer(longest: int = LONGEST) -> list[tuple[int, ...]]:
    """Those that end and those that are cut off: 156 and 625 where the longest has four tokens."""
    ended = [
        (*letters, EOS) for n in range(longest) for letters in itertools.product(range(LETTERS), repeat=n)
    ]
    return ended + list(itertools.product(range(LETTERS), repeat=longest))


def reward(prompt: int, answer: tuple[int, ...]) -> float:
    """Half a point for every letter that is the prompt's, half for a last letter like the first; no end, no points."""
    if answer[-1] != EOS:
        return -1.0
    letters = answer[:-1]
    return 0.5 * letters.count(prompt) + 0.5 * (len(letters) > 1 and letters[0] == letters[-1])


class World:
    """Everything about a policy that can be added up.

    Args:
        longest: tokens of an answer; with two the world has 124 rows, and what needs no training takes no time.
    """

    def __init__(self, seed: int = 0, longest: int = LONGEST) -> None:
        torch.manual_seed(seed)
        self.answers = every_answer(longest)
        config = decoder.Config(layers=2, width=32, heads=2, context=8, vocab=VOCABULARY, tied=False)
        self.reference = models.build(config).eval()
        with torch.no_grad():  # logits of the size of one: a reference with a clear structure
            rows = self.rows()
            logits_BTV = self.reference.head(self.reference(rows.tokens_BT, rows.segments_BT))
            self.reference.output.weight /= logits_BTV.std()
        self.rewards_XY = torch.tensor(
            [[reward(x, y) for y in self.answers] for x in range(PROMPTS)], dtype=torch.float64
        )

    def policy(self, dtype: torch.dtype = torch.float32) -> nn.Module:
        """A copy of the reference, to be trained."""
        return copy.deepcopy(self.reference).to(dtype)

    def rows(self) -> Batch:
        """Every prompt with every answer, as rows: [X·Y]."""
        answers = self.answers
        places = [x for x in range(PROMPTS) for _ in answers]
        prompts = episodes.Prompts([asked(x) for x in places], None, [f"world:{x}" for x in places])
        said = [
            Completion("", [*answer], [], "stop" if answer[-1] == EOS else "length") for answer in answers
        ]
        return episodes.batch(prompts, said * PROMPTS)

    def token_logprobs(self, model: nn.Module, temperature: float = 1.0) -> Tensor:
        """Of every row's tokens, [B, T]."""
        rows = self.rows()
        hidden_BTD = model(rows.tokens_BT, rows.segments_BT)
        return token_logprobs(model, hidden_BTD, rows.targets_BT, temperature)

    def logprobs(self, model: nn.Module) -> Tensor:
        """log π(y|x), float64 [X, Y]."""
        return self.token_logprobs(model).double().sum(dim=1).view(PROMPTS, -1)

    @cached_property
    def reference_XY(self) -> Tensor:
        """log ref(y|x)."""
        with torch.no_grad():
            return self.logprobs(copy.deepcopy(self.reference).double())

    def optimum(self, beta: float) -> Tensor:
        """log π*(y|x)."""
        return (self.reference_XY + self.rewards_XY / beta).log_softmax(dim=1)

    def objective(self, logprobs_XY: Tensor, beta: float) -> Tensor:
        """J of a policy."""
        gain_XY = self.rewards_XY - beta * (logprobs_XY - self.reference_XY)
        return (logprobs_XY.exp() * gain_XY).sum(dim=1).mean()

    def distance(self, logprobs_XY: Tensor, beta: float) -> Tensor:
        """E KL(π ‖ π*), in nats."""
        return (logprobs_XY.exp() * (logprobs_XY - self.optimum(beta))).sum(dim=1).mean()

    def gain(self, logprobs_XY: Tensor, beta: float) -> float:
        """How much of what is possible beyond the reference was reached; 1 is all."""
        best = self.objective(self.optimum(beta), beta)
        begin = self.objective(self.reference_XY, beta)
        return float((self.objective(logprobs_XY, beta) - begin) / (best - begin))

    def frontier(self, beta: float) -> tuple[float, float]:
        """KL to the reference and expected reward of the optimum."""
        best_XY = self.optimum(beta)
        kl = (best_XY.exp() * (best_XY - self.reference_XY)).sum(dim=1).mean()
        return float(kl), float((best_XY.exp() * self.rewards_XY).sum(dim=1).mean())

    def most(self, kl: float) -> float:
        """The largest expected reward of any policy that is so far from the reference, in nats."""
        low, high = -7.0, 7.0  # logarithms of β; the larger β, the nearer
        for _ in range(80):
            middle = (low + high) / 2
            low, high = (middle, high) if self.frontier(math.exp(middle))[0] > kl else (low, middle)
        return self.frontier(math.exp(high))[1]

    def best_of(self, n: float) -> tuple[float, float]:
        """KL to the reference and expected reward of the best of n answers; of equals the first one drawn is taken.

        P(best ≤ v) = P(one ≤ v)ⁿ has a meaning between the whole numbers too.
        """
        kl = score = 0.0
        for chances_Y, rewards_Y in zip(self.reference_XY.exp(), self.rewards_XY, strict=True):
            values, place_Y = rewards_Y.unique(return_inverse=True)
            mass = torch.zeros(len(values), dtype=torch.float64).index_add(0, place_Y, chances_Y)
            below = mass.cumsum(0).clamp(max=1) ** n
            best = below.diff(prepend=below.new_zeros(1))
            kl += float((best * (best / mass).log().nan_to_num(neginf=0.0)).sum()) / PROMPTS
            score += float((best * values).sum()) / PROMPTS
        return kl, score

    def best_at(self, kl: float) -> float:
        """The expected reward of the best of as many answers as lead so far from the reference, in nats."""
        low, high = 0.0, 12.0  # logarithms of n
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if self.best_of(math.exp(middle))[0] < kl else (low, middle)
        return self.best_of(math.exp(low))[1]

    def experience(
        self, stage, policy: nn.Module, folder: Path, batch_size: int, seed: int = 0, micro: int | None = None
    ) -> Experience:
        """Our own experience with this world's prompts and reward."""
        documents = [Document(asked(x), None, Where("world", x), [0, IGNORE]) for x in range(PROMPTS)]
        shard = write(folder / f"shard-{seed}", documents, VOCABULARY, {}, Counter())
        loader = Loader(shard, 8, PROMPTS, seed, pack=False)
        train = loop.Config(batch_size=batch_size, micro_batch_size=micro, precision="fp32")

        def scores(answers) -> list[float]:
            return [reward(answer.prompt_ids[-1], tuple(answer.ids)) for answer in answers]

        return Experience(stage, loader, LanguageModel(policy, Letters(), None), scores, Asked({}, {}), train)

    def trained(
        self, stage, folder: Path, *, steps: int, batch_size: int, lr: float = 2e-3, seed: int = 0
    ) -> nn.Module:
        """A policy after training by our own loop; it keeps its critic."""
        policy = stage.ready(self.policy(), [], Letters())
        loader = self.experience(stage, policy, folder, batch_size, seed)
        settings = loop.Config(
            steps=steps, lr=lr, batch_size=batch_size, precision="fp32",
            optim=optim.Config(kind="adamw", schedule="linear", warmup=0.0, weight_decay=0.0, eps=1e-5,
                                betas=(0.9, 0.999)),
        )  # fmt: skip
        for _ in loop.train(stage, policy, loader, settings, None, lambda _: None):
            pass
        return policy.eval()


@pytest.fixture(scope="session")
def world() -> World:
    torch.set_num_threads(1)
    return World()


@pytest.fixture(scope="session")
def make_world():
    """A function: seed → world."""
    return World
