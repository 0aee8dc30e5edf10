"""Memory and work in closed form: what follows from the number of parameters alone, before any activation.

    training     parameters · bytes + trained · bytes (gradients) + 2 · trained · bytes (AdamW's two averages)
    remembered   2 · layers · key/value heads · head width · bytes, for each token of each row
    work         6 · parameters · tokens for a training step (Kaplan et al., arXiv 2001.08361), 2 · parameters for
                 reading or writing a token

1. 7·10⁹ parameters in numbers of two bytes: 14 GB of weights + 14 GB of gradients + 28 GB of averages = 56 GB.
2. Human feedback by PPO (Ouyang et al., arXiv 2203.02155) holds four models: the policy and the value model are
   trained, the reference and the reward model only read; beside an adapter, reference and policy share the base's
   weights.

Proved by tests/unit/train/test_footprint.py.
"""

from __future__ import annotations

from dataclasses import dataclass

AVERAGES = {"adamw": 2, "adamw8bit": 0.5, "muon": 1, "sgd": 0}  # of the gradients' bytes, in float32 numbers


@dataclass(frozen=True)
class Footprint:
    """Bytes that a model in training holds whatever it reads."""

    parameters: int
    gradients: int
    optimizer: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.parameters + self.gradients + self.optimizer


def training(
    parameters: int, trained: int | None = None, number_bytes: float = 4, state_bytes: float | None = None,
    optimizer: str = "adamw",
) -> Footprint:  # fmt: skip
    """Weights, gradients and optimizer state.

    Args:
        trained: how many of the parameters; default: all.
        number_bytes: of a weight and of a gradient.
        state_bytes: of a number of the optimizer's; default: as of a weight.
    """
    trained = parameters if trained is None else trained
    averages = AVERAGES[optimizer] * trained * (number_bytes if state_bytes is None else state_bytes)
    return Footprint(round(parameters * number_bytes), round(trained * number_bytes), round(averages))


def remembered(
    layers: int, kv_heads: int, head_width: int, rows: int, length: int, number_bytes: int = 4
) -> int:
    """Bytes of the keys and values of `rows` sequences of `length` tokens."""
    return 2 * layers * kv_heads * head_width * rows * length * number_bytes


def work(parameters: int, tokens: int, trained: bool = True) -> int:
    """Floating-point operations of the products with weights, in a training step or in reading only."""
    return (6 if trained else 2) * parameters * tokens


@dataclass(frozen=True)
class Shared:
    """What one of N processes holds of a Footprint."""

    parameters: int
    gradients: int
    optimizer: int
    gathered: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.parameters + self.gradients + self.optimizer + self.gathered


def among(whole: Footprint, ranks: int, kind: str, largest: int = 0, bucket: int = 0) -> Shared:
    """What each of `ranks` processes holds.

    Args:
        kind: `ddp`: everything; `fsdp`: a share of everything, and `largest` bytes that are put together at a time.
        bucket: bytes of gradients that are sent at a time.
    """
    if kind == "fsdp":
        cut = (-(-size // ranks) for size in (whole.parameters, whole.gradients, whole.optimizer))
        return Shared(*cut, gathered=largest if ranks > 1 else 0)
    sent = min(bucket, whole.gradients) if ranks > 1 else 0
    return Shared(whole.parameters, whole.gradients, whole.optimizer, sent)


@dataclass(frozen=True)
class Feedback:
    """Bytes of training by human feedback before activations, by model."""

    policy: Footprint
    reference: int
    reward: int
    value: Footprint
    rollouts: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.policy.total + self.reference + self.reward + self.value.total + self.rollouts


def feedback(
    policy: int, reward: int, rows: int, length: int, remembered_a_token: int, *, adapter: int = 0,
    shared_value: bool = True, number_bytes: int = 4, optimizer: str = "adamw",
) -> Feedback:  # fmt: skip
    """What PPO holds.

    Args:
        policy: parameters of the policy; `reward`: of the reward model.
        rows: of a rollout, each of `length` tokens, which the policy writes with a memory.
        remembered_a_token: bytes of keys and values of one token (`remembered` of one row and one token).
        adapter: trained parameters beside a frozen policy; the reference is then the policy without it.
        shared_value: the value model is a head on the policy, not a model of its own.
    """
    value = policy if not shared_value else 0
    # Of each token: its id, mask, log-probabilities of policy and reference, value, reward, advantage and return.
    kept = rows * length * (8 + 1 + 6 * 4)
    return Feedback(
        policy=training(policy + adapter, adapter or policy, number_bytes, optimizer=optimizer),
        reference=0 if adapter else policy * number_bytes,
        reward=reward * number_bytes,
        value=training(value, value, number_bytes, optimizer=optimizer),
        rollouts=kept + rows * length * remembered_a_token,
    )
