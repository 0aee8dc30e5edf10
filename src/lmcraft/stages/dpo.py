"""Preferences without a reward model: the policy itself is trained so that better answers gain on worse ones.

    −log σ(β((log π(c) − log ref(c)) − (log π(r) − log ref(r))))        c better, r worse; Rafailov et al., 2305.18290

1. `loss=` chooses among sigmoid (DPO), ipo, kto, orpo and simpo (lmcraft.train.preference). The last two have no
   reference.
2. The reference is the base: the model without its adapters, or a frozen copy of it (lmcraft.train.reference). A
   resumed run has the same one.
3. Dropout is off in both: its noise would be read as preference, and the first loss would not be ln 2.
4. kto learns from single answers, good or bad; a pair is one of each. Its baseline, the KL from the reference, is the
   mean log-ratio of answers to other prompts over `kl_group` rows, whatever the size of micro-batches (Batch.split).
5. An answer of several turns is left out and counted: what a user says in it is no act of the policy.

Legend: B rows, T positions.
Proved by tests/contract/test_stages.py and tests/unit/stages/test_dpo.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from ..core.config import Strict
from ..core.errors import UserError
from ..data import preferences
from ..data.batch import Batch
from ..data.preferences import Example, Overflow, answer_masks, example, taking_part
from ..data.records import Pair, Rated
from ..data.tokens import Document
from ..text.chat import ChatTemplate
from ..text.tokenizer import Tokenizer
from ..train import preference
from ..train.logprobs import answer_logprobs
from ..train.reference import Reference
from ..train.tally import Tally
from .stage import NextToken, require_pairs

MODEL = "decoder"
LR = 5e-5
CHAT = True
TEXT_TOO = True
PACK = False
ALONE = ("orpo", "simpo")  # losses without reference, on means over tokens
BETA = {"simpo": 2.0}


class Config(Strict):
    """Which loss, how strong the pull to the reference is, and what happens to long pairs."""

    kind: Literal["dpo"] = "dpo"
    loss: Literal["sigmoid", "ipo", "kto", "orpo", "simpo"] = "sigmoid"
    beta: float | None = Field(
        None,
        gt=0,
        description="the pull to the reference; of orpo, the weight of the odds; default: 0.1, simpo 2",
    )
    smoothing: float = Field(
        0.0, ge=0, lt=0.5, description="sigmoid: the share of preferences that are wrong (cDPO)"
    )
    gap: float = Field(0.5, ge=0, description="simpo: the distance that is to be kept")
    bad_weight: float = Field(1.0, gt=0, description="kto: what a bad answer counts, if a good one counts 1")
    kl_group: int = Field(8, gt=0, description="kto: rows over which the KL is estimated")
    overflow: Overflow = Field("truncate", description="prompts lose their beginning; or drop")

    @model_validator(mode="after")
    def _smoothing_is_of_one(self) -> Config:
        if self.smoothing and self.loss != "sigmoid":
            raise ValueError(f"smoothing belongs to loss=sigmoid, not to loss={self.loss}")
        return self

    @property
    def group(self) -> int:
        """Rows whose losses depend on one another."""
        return self.kl_group if self.loss == "kto" else 1


@dataclass
class DPO(NextToken):
    """See the module's docstring; `adapted` is told before `ready`: adapters will stand beside the model."""

    config: Config
    adapted: bool = False
    reference: Reference | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    tally: Tally = field(default_factory=Tally)

    def ready(self, model: nn.Module, records: Sequence, tokenizer: Tokenizer) -> nn.Module:
        """The model as it is; its reference is made.

        Raises:
            UserError: records that are no preferences, or a model that does not continue text.
        """
        if self.config.loss != "kto":
            require_pairs(records, f"loss={self.config.loss}", " (single rated answers: stage.loss=kto)")
        elif any(not isinstance(record, (Pair, Rated)) for record in records):
            raise UserError(
                "kto needs rated answers or preferences", where=str(records[0].where),
                fix="give rows with `prompt`, `completion` and `label`, or with `prompt`, `chosen` and `rejected`",
            )  # fmt: skip
        model = super().ready(model, records, tokenizer)
        self.reference = None if self.config.loss in ALONE else Reference(model, self.adapted)
        return model

    @property
    def base_fingerprint(self) -> str:
        """Of the reference's copy; empty if there is none."""
        return "" if self.reference is None else self.reference.fingerprint

    def documents(
        self,
        records: Sequence,
        tokenizer: Tokenizer,
        template: ChatTemplate | None,
        width: int,
        counts: Counter,
    ) -> Iterator[Document]:
        """Better and worse answer of each pair; for kto each answer, and beside it one to another prompt."""
        single = []
        for record in records:
            answers = (record.completion,) if isinstance(record, Rated) else (record.chosen, record.rejected)
            if any(len(answer) > 1 for answer in answers):
                counts["left out, an answer of several turns"] += 1
            else:
                single.append(record)
        examples = (
            _rated(single, self.config) if self.config.loss == "kto" else [example(one) for one in single]
        )
        return preferences.documents(examples, tokenizer, template, width, self.config.overflow, counts)

    def finish(self, batch: Batch, seeds: Sequence[int]) -> Batch:
        """The batch, never to be split inside a group."""
        return replace(batch, group=self.config.group)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Summed over the pairs (or answers, for kto); rows without target take no part.

        The model is left in evaluation mode: the backward may make activations again, and must not find dropout then.
        """
        model.eval()
        taking_B, _ = taking_part(batch)
        loss_B = self._kto(model, batch) if self.config.loss == "kto" else self._pairs(model, batch)
        return (loss_B * batch.signals["weight"]).masked_fill(~taking_B, 0.0).sum()

    def _pairs(self, model: nn.Module, batch: Batch) -> Tensor:
        config, beta = self.config, self._beta
        better_B, worse_B = _logprobs(model, batch)
        if config.loss in ALONE:
            better_B, worse_B = (
                one_B / mask_BT.sum(dim=1).clamp(min=1)
                for one_B, mask_BT in zip((better_B, worse_B), answer_masks(batch), strict=True)
            )
            self._note(batch, better_B, worse_B, "mean_logprob")
            if config.loss == "orpo":
                return preference.orpo(better_B, worse_B, beta)
            return preference.simpo(better_B, worse_B, beta, config.gap)
        assert self.reference is not None
        with self.reference.of(model) as reference:
            before_better_B, before_worse_B = _logprobs(reference, batch)
        better_B, worse_B = better_B - before_better_B, worse_B - before_worse_B
        self._note(batch, beta * better_B, beta * worse_B, "reward")
        if config.loss == "ipo":
            return preference.ipo(better_B - worse_B, beta)
        return preference.sigmoid(better_B - worse_B, beta, batch.signals["margin"], config.smoothing)

    def _note(self, batch: Batch, better_B: Tensor, worse_B: Tensor, what: str) -> None:
        if torch.is_grad_enabled():
            taking_B, _ = taking_part(batch)
            better_N, worse_N = better_B[taking_B], worse_B[taking_B]
            gap_N = better_N - worse_N
            self.tally.add(
                accuracy=(gap_N > 0) + 0.5 * (gap_N == 0),
                **{f"{what}_gap": gap_N, f"chosen_{what}": better_N, f"rejected_{what}": worse_N},
            )

    def _kto(self, model: nn.Module, batch: Batch) -> Tensor:
        assert self.reference is not None and batch.source is not None
        taking_B, start_B = taking_part(batch)
        good_B = batch.targets_BT.gather(1, start_B[:, None])[:, 0] == 1
        own_BT, other_BT = answer_masks(batch)
        own, other = (batch.tokens_BT, batch.segments_BT), (batch.source.tokens_BS, batch.source.segments_BS)
        ratio_B = _answers(model, own, own_BT)
        with torch.no_grad():
            others_B = _answers(model, other, other_BT)
        with self.reference.of(model) as reference:
            before_B, before_others_B = _answers(reference, own, own_BT), _answers(reference, other, other_BT)
        ratio_B = ratio_B - before_B
        baseline_B = _mean_of_groups(others_B - before_others_B, taking_B, self.config.kl_group).clamp(min=0)
        if torch.is_grad_enabled():
            reward_B = self._beta * ratio_B
            self.tally.add(
                chosen_reward=reward_B[taking_B & good_B], rejected_reward=reward_B[taking_B & ~good_B],
                kl=baseline_B[taking_B],
            )  # fmt: skip
        return preference.kto(ratio_B, good_B, baseline_B, self._beta)

    @property
    def _beta(self) -> float:
        return self.config.beta or BETA.get(self.config.loss, 0.1)

    def told(self) -> dict[str, float]:
        """Means since they were last asked for: implicit rewards β·log(π/ref), and how often the better one leads."""
        return self.tally.told()


def _rated(records: Sequence[Pair | Rated], config: Config) -> list[Example]:
    """Each answer, good or bad, and beside it the answer to another prompt."""
    found = []
    for record in records:
        sides = (
            [(record.completion, record.label, 1.0)] if isinstance(record, Rated)
            else [(record.chosen, True, record.weight), (record.rejected, False, record.weight)]
        )  # fmt: skip
        found += [(record, answer, good, weight) for answer, good, weight in sides]
    examples = []
    for number, (record, answer, good, weight) in enumerate(found):
        # Two places on: the one after a better answer is the worse answer to the same prompt.
        other = found[(number + 2) % len(found)][1]
        signals = {"margin": 0.0, "weight": weight * (1.0 if good else config.bad_weight)}
        examples.append(Example(record.prompt, answer, other, signals, record.where, int(good)))
    return examples


def _logprobs(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    """log π of the better and of the worse answers, each [B]."""
    assert batch.source is not None
    better_BT, worse_BT = answer_masks(batch)
    better_B = _answers(model, (batch.tokens_BT, batch.segments_BT), better_BT)
    return better_B, _answers(model, (batch.source.tokens_BS, batch.source.segments_BS), worse_BT)


def _answers(model: nn.Module, row: tuple[Tensor, Tensor], mask_BT: Tensor) -> Tensor:
    tokens_BT, segments_BT = row
    return answer_logprobs(model, model(tokens_BT, segments_BT), tokens_BT, mask_BT)


def _mean_of_groups(values_B: Tensor, taking_B: Tensor, group: int) -> Tensor:
    """For each row the mean over the rows of its group that take part."""
    parts = zip(values_B.split(group), taking_B.split(group), strict=True)
    means = [(v * t).sum().div(t.sum().clamp(min=1)).expand(len(v)) for v, t in parts]
    return torch.cat(means)


def build(config: Config) -> DPO:
    """The stage."""
    return DPO(config)
