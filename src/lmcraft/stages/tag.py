"""Tagging: one tag for each word, such as the part of a name that it is (NER) or its part of speech.

1. The target stands at a word's first token; its other tokens have none (Devlin et al., arXiv 1810.04805, section 5.3).
2. The tags are those of the training records, `O` first. A tag that only held-out records have is no target there.
3. A sentence longer than a row is parted between words (counted); a word of which the tokenizer leaves nothing has no
   target (counted).
4. A base that has a head for the same tags goes on with it; any other gets a fresh one.

Proved by tests/contract/test_stages.py and tests/unit/stages/test_tag.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field
from torch import Tensor, nn

from ..core.config import Strict
from ..core.errors import UserError
from ..data.batch import IGNORE, Batch
from ..data.records import Tagged
from ..data.tokens import Document
from ..generate.reading import framed
from ..models.heads import around
from ..text.chat import ChatTemplate
from ..text.entities import OUTSIDE
from ..text.tokenizer import Tokenizer
from ..text.words import encode_words, pieces
from ..train.loss import summed_cross_entropy
from .stage import same_labels

MODEL = "encoder"
LR = 1e-4
CHAT = False
PACK = True
CHUNK = 1000


class Config(Strict):
    """The new head."""

    kind: Literal["tag"] = "tag"
    dropout: float = Field(0.1, ge=0, lt=1, description="before the tags")


@dataclass
class Tag:
    """See the module's docstring; `ready` learns the tags."""

    config: Config
    labels: tuple[str, ...] = ()

    @property
    def facts(self) -> dict[str, Any]:
        """The tags."""
        return {"labels": self.labels}

    def ready(self, model: nn.Module, records: Sequence, tokenizer: Tokenizer) -> nn.Module:
        """The model with a head for the tags of the records.

        Raises:
            UserError: records without tags, or a model that cannot have such a head.
        """
        for record in records:
            if not isinstance(record, Tagged):
                raise UserError(
                    f"tagging needs words with tags, not {type(record).__name__.lower()} records",
                    where=str(getattr(record, "where", "")),
                    fix="give rows with `tokens` and `tags`, two lists of one length",
                )
        found = sorted({tag for record in records for tag in record.tags}, key=lambda t: (t != OUTSIDE, t))
        if same_labels(model, "tags", found):
            self.labels = model.config.labels
            return model
        self.labels = tuple(found)
        return around(model, task="tags", labels=self.labels, dropout=self.config.dropout)

    def documents(
        self, records: Sequence, tokenizer: Tokenizer, template: ChatTemplate, width: int, counts: Counter
    ) -> Iterator[Document]:
        """Sentences with a label at the first token of each word."""
        room = width - len(framed(tokenizer, []))
        before = len(tokenizer.beginning)
        number = {label: place for place, label in enumerate(self.labels)}
        for start in range(0, len(records), CHUNK):
            part = records[start : start + CHUNK]
            encoded = encode_words(tokenizer, [record.tokens for record in part])
            for record, words in zip(part, encoded, strict=True):
                labels = [IGNORE] * len(words.ids)
                for first, tag in zip(words.first, record.tags, strict=True):
                    counts["words without a token"] += first is None
                    if first is not None:
                        labels[first] = number.get(tag, IGNORE)
                        counts["words with a tag that was not trained"] += tag not in number
                spans = pieces(words, room)
                counts["split over rows"] += len(spans) > 1
                for begin, stop in spans:
                    row = framed(tokenizer, words.ids[begin:stop])
                    own = [IGNORE] * before + labels[begin:stop]
                    yield Document(row, None, record.where, own + [IGNORE] * (len(row) - len(own)))

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Summed over the words."""
        return summed_cross_entropy(model, model(batch.tokens_BT, batch.segments_BT), batch.targets_BT)


def build(config: Config) -> Tag:
    """The stage."""
    return Tag(config)
