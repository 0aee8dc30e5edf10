"""Masked language modelling: guess the words of a text that were hidden, from the words on both sides.

Devlin et al., arXiv 1810.04805, section 3.1.

1. `share` (15 %) of a row's tokens are chosen, at least one; of them 80 % become the mask token, 10 % a random one, and
   10 % stay; the loss is on the chosen positions only. Special tokens are never chosen and never put in.
2. `whole_words` chooses words with all their tokens (BERT's later releases). How many are chosen stays the same.
3. What is hidden is drawn anew each time a row is read, from the row's place in the stream alone (`finish`), so a
   resumed run hides the same; the held-out rows are always hidden in the same way.
4. A long text is cut into rows, each with its own bos and eos.

Legend: B rows, T positions.
Proved by tests/contract/test_stages.py and tests/unit/stages/test_mask.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from ..core.config import Strict
from ..core.errors import UserError
from ..data.batch import IGNORE, Batch
from ..data.records import parts
from ..data.tokens import Document
from ..generate.reading import framed
from ..text.chat import ChatTemplate
from ..text.special import MASK
from ..text.tokenizer import Tokenizer
from ..text.words import word_starts
from ..train.loss import summed_cross_entropy

MODEL = "encoder"
LR = 1e-3
CHAT = False
PACK = True
SPECIALS = (MASK,)  # what a tokenizer that is trained for this stage has besides
CHUNK = 1000


class Config(Strict):
    """How much is hidden, and how."""

    kind: Literal["mask"] = "mask"
    share: float = Field(0.15, gt=0, lt=1, description="of the tokens that are guessed")
    masked: float = Field(0.8, ge=0, le=1, description="of those, how many become the mask token")
    random: float = Field(0.1, ge=0, le=1, description="of those, how many become a random token")
    whole_words: bool = False


@dataclass
class Mask:
    """See the module's docstring; `ready` learns the vocabulary."""

    config: Config
    mask: int = -1
    ordinary: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    starts: np.ndarray = field(default_factory=lambda: np.zeros(0, bool))
    facts: dict[str, Any] = field(default_factory=dict)

    def ready(self, model: nn.Module, records: Sequence, tokenizer: Tokenizer) -> nn.Module:
        """The model, if it is an encoder with its own head.

        Raises:
            UserError: another model, or a tokenizer without mask token.
        """
        kind = model.config.kind
        if model.generates or model.reads_source or hasattr(model.config, "task"):
            raise UserError(
                f"a model of kind {kind} cannot be trained to guess hidden words", where=f"model.kind={kind}",
                why="only an encoder reads both sides of a word and has a head for words",
                fix="choose model.kind=encoder, or base=an encoder with its own head",
            )  # fmt: skip
        if tokenizer.mask is None:
            raise UserError(
                "the tokenizer has no mask token", why="hidden words need a token in their place",
                fix="let this stage train its own tokenizer, or use that of a BERT",
            )  # fmt: skip
        self.mask = tokenizer.mask
        numbers = np.arange(tokenizer.size)
        self.ordinary = numbers[~np.isin(numbers, sorted(tokenizer.special_ids))]
        self.starts = np.array(word_starts(tokenizer))
        return model

    def documents(
        self, records: Sequence, tokenizer: Tokenizer, template: ChatTemplate, width: int, counts: Counter
    ) -> Iterator[Document]:
        """Texts in rows, every ordinary id its own label."""
        room = width - len(framed(tokenizer, []))
        for start in range(0, len(records), CHUNK):
            part = records[start : start + CHUNK]
            texts = [
                "\n".join(text for name, text in parts(r) if name not in ("label", "tags")) for r in part
            ]
            for record, ids in zip(part, tokenizer.encode_texts(texts), strict=True):
                counts["split over rows"] += len(ids) > room
                for place in range(0, len(ids), room):
                    row = framed(tokenizer, ids[place : place + room])
                    labels = [IGNORE if i in tokenizer.special_ids else i for i in row]
                    yield Document(row, None, record.where, labels)

    def finish(self, batch: Batch, seeds: Sequence[int]) -> Batch:
        """The batch with words hidden, each row by its own seed."""
        tokens_BT, targets_BT = batch.tokens_BT.clone(), torch.full_like(batch.targets_BT, IGNORE)
        for b, seed in enumerate(seeds):
            draw = np.random.Generator(np.random.Philox(key=[seed, 0]))
            chosen = self._chosen(batch.tokens_BT[b].numpy(), batch.targets_BT[b].numpy() != IGNORE, draw)
            targets_BT[b, chosen] = batch.tokens_BT[b, chosen]
            fate = draw.random(len(chosen))
            others = self.ordinary[draw.integers(0, len(self.ordinary), len(chosen))]
            limit = self.config.masked, self.config.masked + self.config.random
            kept = tokens_BT[b, chosen].numpy()
            new = np.where(fate < limit[0], self.mask, np.where(fate < limit[1], others, kept))
            tokens_BT[b, chosen] = torch.from_numpy(new)
        return replace(batch, tokens_BT=tokens_BT, targets_BT=targets_BT)

    def _chosen(self, tokens: np.ndarray, open_to: np.ndarray, draw: np.random.Generator) -> np.ndarray:
        """Places whose tokens are to be guessed."""
        places = np.flatnonzero(open_to)
        wanted = max(1, round(self.config.share * len(places)))
        if not self.config.whole_words:
            return np.sort(draw.permutation(places)[:wanted])
        begins = self.starts[tokens[places]]
        begins[0] = True
        begins[1:] |= np.diff(places) > 1  # after a special token
        words = np.split(places, np.flatnonzero(begins)[1:])
        chosen: list[int] = []
        for number in draw.permutation(len(words)):
            if not chosen or len(chosen) + len(words[number]) <= wanted:
                chosen += words[number].tolist()
            if len(chosen) >= wanted:
                break
        return np.array(sorted(chosen))

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Summed over the chosen positions."""
        return summed_cross_entropy(model, model(batch.tokens_BT, batch.segments_BT), batch.targets_BT)


def build(config: Config) -> Mask:
    """The stage."""
    return Mask(config)
