"""What stages have in common that learn from a reward: prompts, experience, and what they tell of each step.

Legend: B rows, T positions, N trained positions.
Proved by tests/unit/stages/test_ppo.py, tests/unit/stages/test_grpo.py and tests/unit/rl/test_named_reference.py.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from ..core.errors import UserError
from ..data.batch import Batch
from ..data.loader import Loader
from ..data.tokens import Document
from ..generate.language_model import LanguageModel
from ..models.model import fingerprint
from ..rewards import reward as rewards
from ..text.chat import ChatTemplate
from ..text.tokenizer import Tokenizer
from ..train import loop
from ..train.logprobs import token_logprobs
from ..train.tally import Tally
from . import critic, episodes, prompts, shared
from .experience import Asked, Experience
from .settings import Rewarded


class Learner(ABC):
    """A stage that answers prompts, is told what the answers are worth, and learns."""

    facts: dict[str, Any] = {}
    base_fingerprint = ""
    needs_reference = False
    needs_potential = False
    named_reference: nn.Module | None = None

    def __init__(self, config: Rewarded) -> None:
        self.config: Any = config
        self.noted: dict[str, float] = {}
        self.tally = Tally()
        self._model: nn.Module | None = None

    def ready(self, model: nn.Module, records: Sequence, tokenizer: Tokenizer) -> nn.Module:
        """The model as it is, if it writes; a reference that is named is loaded.

        Raises:
            UserError: it does not, no reward is given, or the reference cannot be one.
        """
        if not self.config.reward:
            raise UserError(
                "nothing says which answers are good", where="stage.reward", why="it is empty",
                fix="for example stage.reward=vader, or stage.reward=runs/reward for a reward model",
            )  # fmt: skip
        if not model.generates:
            raise UserError(
                f"a model of kind {model.config.kind} writes no answers", why="it has no next token",
                fix="choose a decoder, a recurrent network or an encoder-decoder",
            )  # fmt: skip
        self._model = model
        named = getattr(self.config, "reference", "")
        if named and not self.needs_reference:
            raise UserError(
                "a reference is named, and nothing is compared with it", where=f"stage.reference={named}",
                why="the weight of the penalty is 0", fix="leave it out, or set stage.kl_coef",
            )  # fmt: skip
        if not next(model.parameters()).is_meta:
            self.base_fingerprint = fingerprint(model.named_parameters())
            if named:
                self.named_reference = _named(named, model, tokenizer)
                self.base_fingerprint += " " + fingerprint(self.named_reference.named_parameters())
        return model

    def documents(
        self,
        records: Sequence,
        tokenizer: Tokenizer,
        template: ChatTemplate | None,
        width: int,
        counts: Counter,
    ) -> Iterator[Document]:
        """The prompts."""
        assert self._model is not None
        rollout = self.config.rollout
        room = width if self._model.reads_source else width - rollout.max_new_tokens
        return prompts.documents(self._model, records, tokenizer, template, room, rollout.begin, counts)

    def experience(
        self, loader: Loader, lm: LanguageModel, records: Sequence, train: loop.Config
    ) -> Experience:
        """Takes the place of the loader of prompts."""
        if getattr(lm.model, critic.NAME, None) is not None:
            critic.refuse_adapted(lm.model)
        _require_policy(lm.model)
        asked = Asked(
            {str(record.where): prompts.question(record) for record in records},
            {str(record.where): getattr(record, "answer", None) for record in records},
        )
        reward = rewards.together(self.config.reward, lm.tokenizer)
        made = Experience(self, loader, lm, reward, asked, train)
        if reward.judges and getattr(self.config, "normalise", False):
            made.normalise(reward.judges)
        return made

    def read(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Log-probabilities of the targets at the temperature of sampling, and a critic's values, [B, T] each."""
        hidden_BTD = shared.hidden(model, batch)
        found = {
            "logprobs": token_logprobs(model, hidden_BTD, batch.targets_BT, self.config.rollout.temperature)
        }
        if hasattr(model, critic.NAME):
            found["values"] = model.critic(hidden_BTD, batch.tokens_BT, batch.segments_BT, **batch.reads)
        return found

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """The summed loss; without dropout, which would make every ratio noise."""
        model.eval()
        return self.summed(model, episodes.trimmed(batch))

    @abstractmethod
    def summed(self, model: nn.Module, batch: Batch) -> Tensor:
        """What a stage sums over the tokens of answers."""

    @abstractmethod
    def after(self, facts: Mapping[str, float], count: int) -> None:
        """Is told about a round."""

    def note(self, new_N: Tensor, old_N: Tensor, policy_N: Tensor, value_N: Tensor | None = None) -> None:
        """Adds up what a micro-batch showed."""
        new_N = new_N.detach()
        ratio_N = (new_N - old_N).exp()
        values = {} if value_N is None else {"value_loss": value_N}
        self.tally.add(
            ratio=ratio_N, approx_kl=(new_N - old_N).square() / 2, policy_loss=policy_N, entropy=-new_N,
            clip_fraction=(ratio_N - 1).abs() > self.config.clip, **values,
        )  # fmt: skip

    def told(self) -> dict[str, float]:
        """Means over the tokens of the step, and what was noted of its round; then everything is forgotten."""
        found, self.noted = self.tally.told() | self.noted, {}
        return found

    def state(self) -> dict[str, Any]:
        """What a checkpoint has to keep."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on from a checkpoint."""
        assert not state, "a stage that keeps something takes it back itself"


def _named(path: str, policy: nn.Module, tokenizer: Tokenizer) -> nn.Module:
    """The model at a path, if it can say how likely the policy's answers are.

    Raises:
        UserError: it cannot.
    """
    lm, where = LanguageModel.load(path), f"stage.reference={path}"
    if not lm.tokenizer.same_ids(tokenizer):
        raise UserError(
            "the reference has another tokenizer than the policy", where=where,
            why="it would read other words than were written", fix="name a model with the policy's tokenizer",
        )  # fmt: skip
    if not lm.model.generates or lm.model.reads_source != policy.reads_source:
        raise UserError(
            f"a model of kind {lm.model.config.kind} is no reference for one of kind {policy.config.kind}", where=where,
            why="it does not read prompts and write answers as the policy does", fix="name one that does",
        )  # fmt: skip
    return lm.model


def _require_policy(model: nn.Module) -> None:
    """Raises a UserError if nothing but the critic would be trained."""
    trained = (name for name, p in model.named_parameters() if p.requires_grad)
    if all(name.partition(".")[0] == critic.NAME for name in trained):
        raise UserError(
            "nothing of the policy is trained", where="adapter", why="the base is frozen, and nothing stands beside it",
            fix="add an adapter: adapter=qlora, or adapter=[quantize, lora]",
        )  # fmt: skip
