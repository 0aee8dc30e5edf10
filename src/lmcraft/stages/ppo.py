"""Reinforcement learning from a reward by proximal policy optimization, near a reference.

    maximise  E[score(answer)] − β·KL(π ‖ reference)
    r_t = −β (log π_old(a_t) − log ref(a_t)),  and the score is added at the last token
    loss = Σ_t max(−A_t ρ_t, −A_t clip(ρ_t, 1 ± ε)) + c·½ max((V_t − R_t)², (clip(V_t, V_old ± ε) − R_t)²)

Schulman et al., arXiv 1707.06347; Ziegler et al., 1909.08593; Ouyang et al., 2203.02155; the details by Huang et al.,
2403.17031.

1. The penalty is the estimator k1 inside the reward, so its gradient is that of the stated objective.
2. Advantages are those of GAE over each answer alone, whitened over all tokens of the round.
3. There is no dropout: neither when answers are drawn nor when they are trained on, or the ratio would be noise.
4. The critic is a head on the policy, or a copy of it with such a head (lmcraft.rl.critic); the policy alone is saved.
5. With `shaping` the reward of the answer so far is a potential: the optimum stays, the noise of what was said before a
   token is no longer part of that token's credit.
6. With `kl.target` the coefficient β is adapted after each round.

Legend: B rows, T positions, N trained positions.
Proved by tests/reinforce/, tests/unit/stages/test_ppo.py and tests/contract/test_stages.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field
from torch import Tensor, nn

from ..core.config import Strict
from ..data.batch import IGNORE, Batch
from ..rl import advantages, critic, episodes, objective
from ..rl.learner import Learner
from ..rl.settings import ADAMW, Anchored
from ..text.tokenizer import Tokenizer

MODEL = "decoder"
LR = 1e-5
OPTIM = ADAMW
CHAT = True
TEXT_TOO = True
PACK = False


class Penalty(Strict):
    """How dear it is to leave the reference."""

    coef: float = Field(0.05, ge=0, description="β, in units of the score for a nat")
    target: float | None = Field(None, gt=0, description="nats an answer to which β is adapted")
    horizon: int = Field(10_000, gt=0, description="episodes in which β changes by at most a fifth")


class Config(Anchored):
    """Reward, rollouts, the penalty, and how advantages become steps."""

    kind: Literal["ppo"] = "ppo"
    group: int = Field(1, gt=0, description="answers to each prompt, which is then read once for all of them")
    kl: Penalty = Penalty()
    clip: float = Field(0.2, gt=0, description="how far a ratio may move from 1")
    value_clip: float = Field(0.2, gt=0, description="how far a value may move from the rollout's")
    value_coef: float = Field(0.1, ge=0)
    discount: float = Field(1.0, gt=0, le=1)
    decay: float = Field(0.95, ge=0, le=1, description="λ of GAE")
    shaping: bool = Field(
        False,
        description="credit each token at once with what it changed about the reward of the answer so far",
    )
    critic: Literal["shared", "separate"] = "shared"
    normalise: bool = Field(
        True, description="give a reward model mean 0, deviation 1 on what is said at first"
    )
    whiten_advantages: bool = Field(True, description="mean 0, deviation 1 over the tokens of a round")
    whiten_rewards: bool = Field(False, description="divide the rewards of a round by their deviation")


class PPO(Learner):
    """See the module's docstring."""

    signals = ("logprobs", "values", "advantages", "returns")
    needs_reference = True

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.group, self.needs_potential = config.group, config.shaping
        self.coefficient = config.kl.coef

    def ready(self, model: nn.Module, records: Sequence, tokenizer: Tokenizer) -> nn.Module:
        """The model with a critic."""
        return critic.put_on(super().ready(model, records, tokenizer), self.config.critic == "separate")

    def finished(self, model: nn.Module, loader: Any) -> nn.Module:
        """The policy alone."""
        return critic.taken_off(model)

    def credit(self, rows: Batch, scores_B: Tensor) -> dict[str, Tensor]:
        """Advantages and returns from scores, penalty and values."""
        config, mask_BT = self.config, rows.targets_BT != IGNORE
        signals = rows.signals
        kl_BT = objective.k1(signals["logprobs"], signals["reference"]) * mask_BT
        rewards_BT = episodes.at_last(scores_B, rows.targets_BT) - self.coefficient * kl_BT
        if config.shaping:
            rewards_BT = rewards_BT + advantages.shaping(signals["potential"], mask_BT, config.discount)
        if config.whiten_rewards:
            rewards_BT = advantages.whiten(rewards_BT, mask_BT, keep_mean=True)
        found_BT, returns_BT = advantages.gae(
            rewards_BT, signals["values"], mask_BT, config.discount, config.decay
        )
        self.note_round(signals["values"][mask_BT], returns_BT[mask_BT])
        if config.whiten_advantages:
            found_BT = advantages.whiten(found_BT, mask_BT)
        return {"advantages": found_BT, "returns": returns_BT}

    def note_round(self, values_N: Tensor, returns_N: Tensor) -> None:
        """How much of the returns the critic explains; 1 is all, 0 no more than their mean."""
        spread = float(returns_N.var(unbiased=False))
        if spread > 0:
            self.noted["explained_variance"] = 1 - float((returns_N - values_N).var(unbiased=False)) / spread

    def after(self, facts: Mapping[str, float], count: int) -> None:
        """Adapts the coefficient of the penalty, where a target is set."""
        kl = self.config.kl
        self.noted["kl_coef"] = self.coefficient
        self.noted["objective"] = facts["score"] - self.coefficient * facts["kl"]
        if kl.target is not None:
            self.coefficient = objective.adapted(self.coefficient, facts["kl"], kl.target, count, kl.horizon)

    def summed(self, model: nn.Module, batch: Batch) -> Tensor:
        """Surrogate and value loss, summed over the answers' tokens."""
        read, signals = self.read(model, batch), batch.signals
        mask_BT = batch.targets_BT != IGNORE
        new_N, old_N = read["logprobs"][mask_BT], signals["logprobs"][mask_BT]
        policy_N = objective.surrogate(new_N, old_N, signals["advantages"][mask_BT], self.config.clip)
        value_N = objective.value_loss(
            read["values"][mask_BT], signals["values"][mask_BT], signals["returns"][mask_BT],
            self.config.value_clip,
        )  # fmt: skip
        self.note(new_N, old_N, policy_N, value_N)
        total_N = policy_N + self.config.value_coef * value_N
        weights = signals.get("weights")
        return total_N.sum() if weights is None else (total_N * weights[mask_BT]).sum()

    def state(self) -> dict[str, Any]:
        """What a checkpoint has to keep."""
        return {"coefficient": self.coefficient}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on from a checkpoint."""
        self.coefficient = state["coefficient"]


def build(config: Config) -> PPO:
    """The stage."""
    return PPO(config)
