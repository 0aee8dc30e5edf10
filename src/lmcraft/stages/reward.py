"""Reward model: one score for an answer, such that the better of two answers scores higher.

    loss = −log σ(r(better) − r(worse) − margin) · weight        summed over pairs (Bradley and Terry, 1952)

Ziegler et al., arXiv 1909.08593; Stiennon et al., arXiv 2009.01325; margins: Llama 2, arXiv 2307.09288.

1. The score is read at the last token of the answer: its end of turn, or eos.
2. A pair with the weights p and 1 − p in its two directions teaches r(a) − r(b) = log p/(1−p). All pairs of a ranking
   of k answers, each of weight 2/(k(k−1)), count as one (InstructGPT, arXiv 2203.02155).
3. After the last step, gain and bias of the head are set so that the answers of NORMALISED pairs of the training data
   have mean 0 and std 1 (lmcraft.generate.scoring). Training works on the scores without them.
4. A base with a head for scores goes on with it, any other model gets a fresh one; with adapters it is trained whole.

Legend: B rows, T positions, D width.
Proved by tests/contract/test_stages.py and tests/unit/stages/test_reward.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from ..core.config import Strict
from ..data import preferences
from ..data.batch import Batch
from ..data.loader import Loader
from ..data.preferences import Overflow, example, taking_part
from ..data.tokens import Document
from ..generate.scoring import normalise
from ..models.heads import around
from ..text.chat import ChatTemplate
from ..text.tokenizer import Tokenizer
from ..train.tally import Tally
from .stage import require_pairs

MODEL = "decoder"
LR = 1e-4
CHAT = True
TEXT_TOO = True
PACK = False
NORMALISED = 256


class Config(Strict):
    """The new head, and what happens to long pairs."""

    kind: Literal["reward"] = "reward"
    dropout: float = Field(0.0, ge=0, lt=1, description="before the score")
    overflow: Overflow = Field("truncate", description="prompts lose their beginning; or drop")


@dataclass
class Reward:
    """See the module's docstring."""

    config: Config
    facts: dict[str, Any] = field(default_factory=dict)
    tally: Tally = field(default_factory=Tally)

    def ready(self, model: nn.Module, records: Sequence, tokenizer: Tokenizer) -> nn.Module:
        """The model with a head for scores.

        Raises:
            UserError: records that are no preferences, or a model that reads a source.
        """
        require_pairs(records, "a reward model")
        if getattr(model.config, "task", None) != "score":
            return around(model, task="score", pooling="last", dropout=self.config.dropout)
        model.config = model.config.model_copy(update={"gain": 1.0, "bias": 0.0})
        return model

    def documents(
        self,
        records: Sequence,
        tokenizer: Tokenizer,
        template: ChatTemplate | None,
        width: int,
        counts: Counter,
    ) -> Iterator[Document]:
        """The better answer with its prompt, the worse one beside it."""
        examples = [example(record) for record in records]
        return preferences.documents(examples, tokenizer, template, width, self.config.overflow, counts)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Summed over the pairs; rows without target take no part."""
        assert batch.source is not None
        taking_B, _ = taking_part(batch)
        better_B = _scores(model, batch.tokens_BT, batch.segments_BT)
        worse_B = _scores(model, batch.source.tokens_BS, batch.source.segments_BS)
        gap_B = better_B - worse_B
        loss_B = -F.logsigmoid(gap_B - batch.signals["margin"]) * batch.signals["weight"]
        if torch.is_grad_enabled():
            told_N = gap_B[taking_B]
            self.tally.add(accuracy=(told_N > 0) + 0.5 * (told_N == 0), score_gap=told_N)
        return loss_B.masked_fill(~taking_B, 0.0).sum()

    def told(self) -> dict[str, float]:
        """Means since they were last asked for: how often the better answer scored higher, and by how much."""
        return self.tally.told()

    def finished(self, model: nn.Module, loader: Loader) -> nn.Module:
        """The model, with scores of answers from the training data that have mean 0 and std 1."""
        rows: list[list[int]] = []
        for number in range(min(NORMALISED, len(loader.rows))):
            batch = loader.batch([number])
            assert batch.source is not None
            rows.append(batch.tokens_BT[batch.segments_BT != 0].tolist())
            rows.append(batch.source.tokens_BS[batch.source.segments_BS != 0].tolist())
        normalise(model, rows)
        return model


def _scores(model: nn.Module, tokens_BT: Tensor, segments_BT: Tensor) -> Tensor:
    """The score of each row, [B], in float32 at least: differences of rounded scores would be steps."""
    hidden_BD = model(tokens_BT, segments_BT)[:, 0]
    with torch.autocast(hidden_BD.device.type, enabled=False):
        score_B = model.head(hidden_BD.to(next(model.output.parameters()).dtype))[:, 0]
    return score_B.to(torch.promote_types(score_B.dtype, torch.float32))


def build(config: Config) -> Reward:
    """The stage."""
    return Reward(config)
