"""Learning from the best: of n answers to each prompt the one with the highest score is imitated.

    loss = −Σ_t log π(a_t) over the best answers alone

Expert iteration, or rejection sampling (Dong et al., "RAFT", arXiv 2304.06767; Touvron et al., 2307.09288).

1. The best of n answers is at most log n − (n − 1)/n nats from the policy that wrote them, so one pass over it is a
   small and known step (lmcraft.rl.best_of_n has the bound and unbiased estimates for every n).
2. There is no reference and no critic; nothing else holds the model back, so rounds should be few.

Legend: B rows, T positions, P prompts, K answers to a prompt.
Proved by tests/unit/stages/test_best_of_n.py and tests/contract/test_stages.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field
from torch import Tensor, nn

from ..data.batch import Batch
from ..rl.learner import Learner
from ..rl.settings import Once, Rewarded
from ..train.loss import summed_cross_entropy

MODEL = "decoder"
LR = 5e-5
CHAT = True
TEXT_TOO = True
PACK = False


class Config(Rewarded):
    """Reward, rollouts, and of how many answers the best is taken."""

    kind: Literal["best_of_n"] = "best_of_n"
    rollout: Once = Once()
    n: int = Field(8, gt=1, description="answers to each prompt")


class BestOfN(Learner):
    """See the module's docstring."""

    signals: tuple[str, ...] = ()

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.group = config.n

    def keep(self, scores_B: Tensor) -> Tensor:
        """The place of the best answer to each prompt (of equals, the first), int64 [P]."""
        best_P = scores_B.view(-1, self.group).argmax(dim=1)
        return best_P + self.group * best_P.new_tensor(range(len(best_P)))

    def credit(self, rows: Batch, scores_B: Tensor) -> dict[str, Tensor]:
        """Nothing beyond which answers are kept."""
        self.noted["best_score"] = float(scores_B.mean())
        return {}

    def after(self, facts: Mapping[str, float], count: int) -> None:
        """How much better than the mean the best are."""
        self.noted["gain"] = self.noted["best_score"] - facts["score"]

    def summed(self, model: nn.Module, batch: Batch) -> Tensor:
        """Summed over the tokens of the best answers."""
        hidden_BTD = model(batch.tokens_BT, batch.segments_BT, **batch.reads)
        return summed_cross_entropy(model, hidden_BTD, batch.targets_BT)


def build(config: Config) -> BestOfN:
    """The stage."""
    return BestOfN(config)
