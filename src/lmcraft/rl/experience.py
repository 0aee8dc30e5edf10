"""Experience: in the place of a loader, it lets the policy answer prompts, scores what it said, and hands out batches.

A round is: prompts → answers (Engine) → scores (reward) → what the stage makes of them (credit) → `epochs` passes in
batches of `train.batch_size`, each in an order of its own. Then the next round, with the policy as it is by then.

1. Answers are drawn with the policy's own temperature, and nothing else cuts the distribution; the same temperature
   divides the logits wherever a log-probability is computed.
2. Log-probabilities at the time of sampling are computed again before training, in the batches of the first epoch: so
   the first ratio is exactly 1. Where a round is one batch and one epoch and there is no critic, those noted while
   sampling are as good.
3. The prompts of a round are a fair sample of all. In rounds of equally long prompts a policy learns from greetings
   alone, then from long stories alone, and a critic is asked about what it has not seen for a whole epoch.
4. With a stage that needs it, every beginning of an answer is scored as well, as an answer that ends there.
5. An answer that does not end by itself has the score `missing_eos` (Huang et al., arXiv 2403.17031, detail 8).
6. Answers to one prompt are computed together (lmcraft.rl.shared), elsewhere rows of similar length; padding that they
   share is not computed at all.
7. The random numbers of an answer depend on the seed, the round and its place alone; so do the orders. The answers of
   the round at hand are part of a checkpoint: training that was killed ends with the same bits.

Legend: B rows, T positions.
Proved by tests/unit/rl/test_experience.py, tests/reinforce/ and tests/faults/test_kill_rl.py.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from ..core.errors import UserError
from ..data.batch import IGNORE, Batch
from ..data.loader import Loader
from ..generate.engine import Completion
from ..generate.language_model import LanguageModel
from ..generate.sampling import Sampling
from ..layers.source import Source
from ..rewards.reward import Answer, Reward, along
from ..train import loop
from ..train.precision import computing
from ..train.reference import Reference, only_adapters_train
from . import critic, episodes
from .objective import k1
from .settings import Rollout

NORMALISED = 256  # answers on which a reward model is brought to mean 0 and deviation 1


class Learns(Protocol):
    """What experience needs of a stage."""

    group: int
    needs_reference: bool
    named_reference: nn.Module | None  # a model that is the reference instead of the base
    needs_potential: bool  # what an answer was worth before each of its tokens
    signals: tuple[str, ...]  # names of what the loss needs, which `read` and `credit` give

    def read(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """`logprobs` of the targets [B, T], and `values` where there is a critic."""
        ...

    def credit(self, rows: Batch, scores_B: Tensor) -> dict[str, Tensor]:
        """The signals that the loss needs, from those that were read."""
        ...

    def after(self, facts: Mapping[str, float], episodes: int) -> None:
        """Is told about each round when it has been credited."""
        ...


@dataclass(frozen=True)
class Asked:
    """What is known of the prompts beside their ids, by where they came from."""

    question: Mapping[str, str]
    expected: Mapping[str, str | None]


class Experience:
    """See the module's docstring; has the face of data.loader.Loader."""

    def __init__(
        self, stage: Any, prompts: Loader, lm: LanguageModel, reward: Reward, asked: Asked, train: loop.Config
    ) -> None:
        self.stage, self.prompts, self.reward, self.asked = stage, prompts, reward, asked
        self.policy, self.engine = lm.model, lm.engine
        self.rollout: Rollout = stage.config.rollout
        self.batch_size, self.precision = train.batch_size, train.precision
        self.micro_batch_size = train.micro_batch_size or train.batch_size
        self.episodes = self.rollout.episodes or self.batch_size * (stage.group if self._keeps_some else 1)
        self.kept = self.episodes // stage.group if self._keeps_some else self.episodes
        _refuse_uneven(self.episodes, self.kept, self.batch_size, stage.group)
        apart = (critic.NAME,)
        self.reference = None
        if stage.needs_reference:
            beside = only_adapters_train(self.policy, apart)
            self.reference = Reference(self.policy, beside, apart, stage.named_reference)
        self.prompts.batch_size = self.episodes // stage.group
        self.prompts.alike = False
        self.rows: Batch | None = None
        self.updates = 0
        self.facts: dict[str, float] = {}

    seed = property(lambda self: self.prompts.seed)
    epoch = property(lambda self: self.prompts.epoch)

    @property
    def _keeps_some(self) -> bool:
        """Whether the stage trains on one answer of each group alone."""
        return hasattr(self.stage, "keep")

    @property
    def updates_a_round(self) -> int:
        """Optimizer steps between two rounds of answers."""
        return self.kept // self.batch_size * self.rollout.epochs

    def steps(self, epochs: float) -> int:
        """Optimizer steps in which every prompt is answered `epochs` times by a whole group."""
        rounds = max(1, round(epochs * len(self.prompts.rows) * self.stage.group / self.episodes))
        return rounds * self.updates_a_round

    def next(self) -> Batch:
        """The next batch; a new round of answers where the last is used up."""
        round_, update = divmod(self.updates, self.updates_a_round)
        self.facts = {}
        if update == 0:
            self.rows = self._answered(round_)
        assert self.rows is not None
        epoch, place = divmod(update, self.kept // self.batch_size)
        order = self._order(self.rows, round_, epoch)[place * self.batch_size : (place + 1) * self.batch_size]
        self.updates += 1
        return weighted(episodes.chosen(self.rows, order), self.stage)

    def _order(self, rows: Batch, round_: int, epoch: int) -> Tensor:
        """The rows of an epoch, batch after batch; in a batch, rows of one prompt or of one length stand together."""
        draw = np.random.Generator(np.random.Philox(key=[self.seed, round_ << 16 | epoch]))
        order = torch.from_numpy(draw.permutation(self.kept))
        if self.stage.group > 1 and not self._keeps_some:
            rank_B = torch.arange(self.kept) // self.stage.group
        else:
            rank_B = (rows.segments_BT != 0).sum(dim=1)
        batches = [part[torch.argsort(rank_B[part], stable=True)] for part in order.split(self.batch_size)]
        return torch.cat(batches)

    def _answered(self, round_: int) -> Batch:
        """A round: answers, scores and credit."""
        prompts = episodes.Prompts.of(self.prompts.next(), self.stage.group)
        started = time.perf_counter()
        answers = self.answers(prompts, f"{self.seed} {round_}")
        generated = time.perf_counter()
        scores = self.scores(prompts, answers)
        worth = self._along(prompts, answers) if self.stage.needs_potential else None
        scored = time.perf_counter()
        rows, scores_B = episodes.batch(prompts, answers), torch.tensor(scores)
        facts = _facts(scores_B, answers)
        if self._keeps_some:
            index = self.stage.keep(scores_B)
            rows, scores_B = episodes.chosen(rows, index), scores_B[index]
        else:
            rows = replace(rows, signals=self._read(rows, round_, answers))
            facts |= _distance(rows)
        if worth is not None:
            potential_BT = episodes.placed(worth, rows.targets_BT)
            rows = replace(rows, signals={**rows.signals, "potential": potential_BT})
        rows = replace(rows, signals={**rows.signals, **self.stage.credit(rows, scores_B)})
        self.stage.after(facts, self.episodes)
        self.facts = facts | {
            "generate_seconds": generated - started, "score_seconds": scored - generated,
            "read_seconds": time.perf_counter() - scored,
        }  # fmt: skip
        return rows

    def answers(self, prompts: episodes.Prompts, seed: str) -> list[Completion]:
        """What the policy says to prompts."""
        samplings = [
            Sampling(
                temperature=self.rollout.temperature, max_new_tokens=self.rollout.max_new_tokens,
                seed=int.from_bytes(hashlib.sha256(f"{seed} {place}".encode()).digest()[:8], "big"),
            ) for place in range(len(prompts.ids))
        ]  # fmt: skip
        with computing(self.precision, self.engine.device):
            return self.engine.generate(prompts.ids, samplings, self.rollout.rows, prompts.sources)

    def scores(self, prompts: episodes.Prompts, answers: list[Completion]) -> list[float]:
        """What the answers are worth."""
        given = self._given(prompts, answers)
        worth, missing = self.reward(given), self.rollout.missing_eos
        return [
            score if answer.stopped or missing is None else missing
            for answer, score in zip(given, worth, strict=True)
        ]

    def _along(self, prompts: episodes.Prompts, answers: list[Completion]) -> list[list[float]]:
        """What each answer was worth before each of its tokens."""
        return along(self.reward, self._given(prompts, answers), self.engine.tokenizer)

    def normalise(self, judges: Sequence[Any]) -> None:
        """Gives reward models mean 0 and deviation 1 on what the policy says before it has learned anything.

        The policy is then what it is at every start of a run, before a checkpoint is read: nothing has to be kept.
        """
        count = len(self.prompts.rows)
        asked = self.prompts.batch([place % count for place in range(NORMALISED)])
        prompts = episodes.Prompts.of(asked, 1)
        given = self._given(prompts, self.answers(prompts, f"{self.seed} before"))
        for judge in judges:
            judge.normalise(given)

    def _given(self, prompts: episodes.Prompts, answers: list[Completion]) -> list[Answer]:
        # Beside a source the prompt itself is only where the answer begins.
        read = prompts.sources or prompts.ids
        return [
            Answer(
                prompt_ids=read[i], ids=answer.tokens, text=answer.text,
                question=self.asked.question.get(prompts.where[i], ""), stopped=answer.finish_reason == "stop",
                expected=self.asked.expected.get(prompts.where[i]),
            ) for i, answer in enumerate(answers)
        ]  # fmt: skip

    @torch.no_grad()
    def _read(self, rows: Batch, round_: int, answers: list[Completion]) -> dict[str, Tensor]:
        """Log-probabilities of policy and reference, and values, as they are at this moment."""
        values = hasattr(self.policy, critic.NAME)  # they are not noted while sampling
        if self.updates_a_round == 1 and self.rollout.temperature == 1 and not values:
            noted = [answer.logprobs for answer in answers]
            found = {"logprobs": episodes.placed(noted, rows.targets_BT)}
        else:
            found = self._each(rows, round_, self.policy)
        if self.reference is not None:
            with self.reference.of(self.policy) as model:
                found["reference"] = self._each(rows, round_, model)["logprobs"]
        return found

    def _each(self, rows: Batch, round_: int, model: nn.Module) -> dict[str, Tensor]:
        """What a model reads from all rows, in the micro-batches of the first epoch."""
        device, was_training = self.engine.device, model.training
        model.eval()
        order = self._order(rows, round_, 0)
        parts = []
        for micro in _micros(episodes.chosen(rows, order), self.batch_size, self.micro_batch_size):
            with computing(self.precision, device):
                read = self.stage.read(model, episodes.trimmed(micro).to(device))
            fill = rows.tokens_BT.shape[1] - read["logprobs"].shape[1]
            parts.append({name: pad(numbers.cpu(), (0, fill)) for name, numbers in read.items()})
        model.train(was_training)
        back = torch.argsort(order)
        return {name: torch.cat([part[name] for part in parts])[back] for name in parts[0]}

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """What a checkpoint has to keep."""
        facts = {"read": self.prompts.read, "updates": self.updates, "stage": self.stage.state()}
        if self.rows is None:
            return {}, facts
        tensors = {
            "tokens": self.rows.tokens_BT, "targets": self.rows.targets_BT, "segments": self.rows.segments_BT,
            **{f"signal.{name}": numbers.contiguous() for name, numbers in self.rows.signals.items()},
        }  # fmt: skip
        if self.rows.source is not None:
            tensors |= {"source": self.rows.source.tokens_BS, "source_segments": self.rows.source.segments_BS}
        return tensors, facts | {"rows": self.rows.rows}

    def restore(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Goes on from a checkpoint."""
        self.prompts.read, self.updates = facts["read"], facts["updates"]
        self.stage.restore(facts["stage"])
        if "tokens" not in tensors:
            return
        source = None
        if "source" in tensors:
            source = Source(tensors["source"], tensors["source_segments"])
        signals = {n.removeprefix("signal."): t for n, t in tensors.items() if n.startswith("signal.")}
        self.rows = Batch(
            tensors["tokens"], tensors["targets"], tensors["segments"], facts["rows"], source, signals=signals
        )


def weighted(rows: Batch, stage: Any) -> Batch:
    """The batch with the weight of each token, where a stage has them: it knows how many rows and targets there are."""
    weigh = getattr(stage, "weights", None)
    return rows if weigh is None else replace(rows, signals={**rows.signals, "weights": weigh(rows)})


def _micros(rows: Batch, batch_size: int, micro_batch_size: int) -> Iterator[Batch]:
    """As the loop splits the batches of an epoch."""
    for part in rows.split(batch_size):
        yield from part.split(micro_batch_size)


def _facts(scores_B: Tensor, answers: list[Completion]) -> dict[str, float]:
    """What the log says of a round."""
    return {
        "score": float(scores_B.mean()), "score_std": float(scores_B.std(unbiased=False)),
        "stopped": sum(answer.finish_reason == "stop" for answer in answers) / len(answers),
        "answer_tokens": sum(len(answer.tokens) for answer in answers) / len(answers),
    }  # fmt: skip


def _distance(rows: Batch) -> dict[str, float]:
    """How far the policy is from its reference, in nats an answer: the mean over answers of the sum over tokens."""
    if "reference" not in rows.signals:
        return {}
    mask_BT = rows.targets_BT != IGNORE
    kl_BT = k1(rows.signals["logprobs"], rows.signals["reference"]) * mask_BT
    return {"kl": float(kl_BT.sum(dim=1).mean())}


def _refuse_uneven(episodes_: int, kept: int, batch_size: int, group: int) -> None:
    if kept % batch_size or episodes_ % group:
        raise UserError(
            f"{episodes_} episodes cannot be divided into batches of {batch_size} and groups of {group}",
            where=f"stage.rollout.episodes={episodes_} train.batch_size={batch_size}",
            fix="let episodes be a multiple of the group, and what is trained on one of train.batch_size",
        )  # fmt: skip
