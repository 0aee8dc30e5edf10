"""Reinforcement learning without a critic: each answer is compared with the others to the same prompt.

    A_i = (s_i − mean of the group) / deviation     grpo     loss: mean over answers of the mean over tokens
    A_i = s_i − mean of the group                   dr_grpo  loss: mean over answers of sum over tokens / longest
    A_i = s_i − mean of the others                  rloo     loss: mean over answers of the sum over tokens
    s_i = score − β Σ_t (log π_old − log ref)

Shao et al., arXiv 2402.03300 (GRPO); Liu et al., 2503.20783 (Dr. GRPO); Ahmadian et al., 2402.14740 (RLOO).

1. The penalty stands in the score by default. `kl_in=loss` adds β·k3 to the loss instead, as the GRPO paper does; that
   has another fixed point than the stated objective (Tang and Munos, arXiv 2506.09477), as
   tests/reinforce/test_optimum.py shows.
2. With one epoch and one batch a round nothing is clipped, and no log-probability is computed twice.

Legend: B rows, T positions, P prompts, K answers to a prompt, N trained positions.
Proved by tests/reinforce/test_optimum.py, tests/unit/stages/test_grpo.py and tests/contract/test_stages.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from ..data.batch import IGNORE, Batch
from ..rl import advantages, objective
from ..rl.learner import Learner
from ..rl.settings import ADAMW, Anchored, Once

MODEL = "decoder"
LR = 1e-5
OPTIM = ADAMW
CHAT = True
TEXT_TOO = True
PACK = False


class Config(Anchored):
    """Reward, rollouts, groups, and where the penalty stands."""

    kind: Literal["grpo"] = "grpo"
    rollout: Once = Once()
    algorithm: Literal["grpo", "dr_grpo", "rloo"] = "grpo"
    group: int = Field(8, gt=1, description="answers to each prompt")
    kl_coef: float = Field(0.05, ge=0, description="β, in units of the score for a nat; 0 needs no reference")
    kl_in: Literal["reward", "loss"] = Field("reward", description="only in the reward is it the objective's")
    clip: float = Field(0.2, gt=0, description="how far a ratio may move from 1")


class GRPO(Learner):
    """See the module's docstring."""

    signals = ("logprobs", "reference", "advantages", "weights")

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.group = config.group
        self.needs_reference = config.kl_coef > 0

    def credit(self, rows: Batch, scores_B: Tensor) -> dict[str, Tensor]:
        """The same advantage for every token of an answer."""
        config, mask_BT = self.config, rows.targets_BT != IGNORE
        if config.kl_coef and config.kl_in == "reward":
            kl_BT = objective.k1(rows.signals["logprobs"], rows.signals["reference"]) * mask_BT
            scores_B = scores_B - config.kl_coef * kl_BT.sum(dim=1)
        scores_PK = scores_B.view(-1, config.group)
        if config.algorithm == "rloo":
            found_PK = advantages.leave_one_out(scores_PK)
        else:
            found_PK = advantages.group_relative(scores_PK, divide=config.algorithm == "grpo")
        self.noted["equal_groups"] = float((scores_PK == scores_PK[:, :1]).all(dim=1).float().mean())
        return {"advantages": found_PK.reshape(-1, 1) * mask_BT}

    def after(self, facts: Mapping[str, float], count: int) -> None:
        """Notes the objective."""
        self.noted["objective"] = facts["score"] - self.config.kl_coef * facts.get("kl", 0.0)

    def weights(self, rows: Batch) -> Tensor:
        """What a token of each row counts for, so that the mean over all tokens is the mean over answers, [B, T]."""
        mask_BT = rows.targets_BT != IGNORE
        lengths_B1 = mask_BT.sum(dim=1, keepdim=True).clamp(min=1)
        shares = {"grpo": 1 / lengths_B1, "dr_grpo": 1 / self.config.rollout.max_new_tokens, "rloo": 1.0}
        return torch.as_tensor(rows.count / len(lengths_B1) * shares[self.config.algorithm]) * mask_BT

    def summed(self, model: nn.Module, batch: Batch) -> Tensor:
        """The surrogate, summed over the answers' tokens with their weights."""
        signals, mask_BT = batch.signals, batch.targets_BT != IGNORE
        new_N, old_N = self.read(model, batch)["logprobs"][mask_BT], signals["logprobs"][mask_BT]
        loss_N = objective.surrogate(new_N, old_N, signals["advantages"][mask_BT], self.config.clip)
        self.note(new_N, old_N, loss_N)
        if self.config.kl_coef and self.config.kl_in == "loss":
            loss_N = loss_N + self.config.kl_coef * objective.k3(new_N, signals["reference"][mask_BT])
        return (loss_N * signals["weights"][mask_BT]).sum()


def build(config: Config) -> GRPO:
    """The stage."""
    return GRPO(config)
