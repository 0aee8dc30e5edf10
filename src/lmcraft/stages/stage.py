"""What a stage is: it turns records into documents with trained parts, and a batch into a summed loss.

A stage knows nothing of optimizers, devices, ranks, checkpoints or logs. Each stage file has a `Config`, the kind of
model that it trains by default (`MODEL`), a default peak learning rate `LR`, whether it needs a chat template (`CHAT`),
whether documents may share a row (`PACK`), and `build(config) → Stage`. One that needs special tokens of its own names
them (`SPECIALS`); one that can do without the template that its base has not (`TEXT_TOO`) is given None in its place.

Proved by tests/contract/test_stages.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from torch import Tensor, nn

from ..adapt.entries import kept_as_it_is
from ..core.config import Strict
from ..core.errors import UserError
from ..data.batch import Batch
from ..data.records import Pair
from ..data.tokens import Document
from ..text.chat import ChatTemplate
from ..text.tokenizer import Tokenizer
from ..train.loss import summed_cross_entropy


class Stage(Protocol):
    """One way to train.

    A stage may also have

    - `finish(batch, seeds) → Batch`, which changes each batch by one seed a row (masking);
    - `adapted: bool`, set before `ready`: whether adapters will stand beside a model that stays as it is;
    - `experience(loader, lm, records, config)`, which takes the place of the loader where a model trains on answers of
      its own;
    - `told() → dict[str, float]`, asked after every step: numbers for metrics.jsonl since it was last asked;
    - `finished(model, loader)`, called with the whole model after the last step: gives the model to save;
    - `base_fingerprint: str`, of what it keeps of the base; a run is not resumed with another one.
    """

    def ready(self, model: nn.Module, records: Sequence, tokenizer: Tokenizer) -> nn.Module:
        """The model as this stage trains it, with the head it needs; called before `documents`.

        Raises:
            UserError: the model cannot be trained so.
        """
        ...

    @property
    def facts(self) -> dict[str, Any]:
        """What documents depend on beside the config, the records and the tokenizer."""
        ...

    def documents(
        self,
        records: Sequence,
        tokenizer: Tokenizer,
        template: ChatTemplate | None,
        width: int,
        counts: Counter,
    ) -> Iterator[Document]:
        """Ids and trained parts of each record, for rows of `width` inputs.

        `counts` is told how many documents were split, truncated or dropped.
        """
        ...

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """The loss summed over the batch's targets, in nats."""
        ...


def begin(module: Any, config: Strict, adapters: Sequence[Strict]) -> Any:
    """The stage of a module, told whether adapters will stand beside its model if it wants to know."""
    stage = module.build(config)
    if hasattr(stage, "adapted"):
        stage.adapted = kept_as_it_is(adapters)
    return stage


def require_pairs(records: Sequence, what: str, more: str = "") -> None:
    """Raises UserError if a record is no preference; `what` needs them."""
    for record in records:
        if not isinstance(record, Pair):
            raise UserError(
                f"{what} learns from preferences, not from {type(record).__name__.lower()} records{more}",
                where=str(getattr(record, "where", "")),
                fix="give rows with `prompt`, `chosen` and `rejected`",
            )


class NextToken:
    """What stages have in common that train a model to continue what it reads."""

    facts: dict[str, Any] = {}

    def ready(self, model: nn.Module, records: Sequence, tokenizer: Tokenizer) -> nn.Module:
        """The model as it is, if it predicts next tokens."""
        if model.generates and not model.reads_source:
            return model
        kind = model.config.kind
        why = "it reads a source first" if model.reads_source else "it sees the words that it should predict"
        raise UserError(
            f"a model of kind {kind} cannot be trained to continue text", where=f"model.kind={kind}", why=why,
            fix="choose model.kind=decoder or rnn, or stage=translate for sources and targets, stage=mask for encoders",
        )  # fmt: skip


def same_labels(model: nn.Module, task: str, labels: Sequence[str]) -> bool:
    """Whether a model has a head for this task already that knows all of these labels."""
    config = model.config
    return getattr(config, "task", None) == task and set(labels) <= set(config.labels)


def next_token_loss(model: nn.Module, batch: Batch) -> Tensor:
    """−Σ log p(next token) over the trained targets."""
    hidden_BTD = model(batch.tokens_BT, batch.segments_BT)
    return summed_cross_entropy(model, hidden_BTD, batch.targets_BT)
