"""What a stage is: it turns records into documents with trained parts, and a batch into a summed loss.

A stage knows nothing of optimizers, devices, ranks, checkpoints or logs. Each stage file has a `Config`, a default peak
learning rate `LR`, and `build(config) → Stage`.

Proved by tests/contract/test_stages.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Protocol

from torch import Tensor, nn

from ..data.batch import Batch
from ..data.tokens import Document
from ..text.chat import ChatTemplate
from ..text.tokenizer import Tokenizer
from ..train.loss import summed_cross_entropy


class Stage(Protocol):
    """One way to train."""

    def documents(
        self, records: Sequence, tokenizer: Tokenizer, template: ChatTemplate, width: int, counts: Counter
    ) -> Iterator[Document]:
        """Ids and trained parts of each record, for rows of `width` inputs.

        `counts` is told how many documents were split, truncated or dropped.
        """
        ...

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """The loss summed over the batch's targets, in nats."""
        ...


def next_token_loss(model: nn.Module, batch: Batch) -> Tensor:
    """−Σ log p(next token) over the trained targets."""
    hidden_BTD = model(batch.tokens_BT, batch.segments_BT)
    return summed_cross_entropy(model, hidden_BTD, batch.targets_BT)
