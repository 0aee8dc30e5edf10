"""Reading: what models say about a text that they do not continue: masked words, classes, tags, embeddings, scores.

1. A text is read as bos + text + eos ([CLS] … [SEP] for BERT), as the stages train it; what is too long loses its end.
2. Texts of similar length are read together; neither order nor company changes a result beyond rounding.
3. What is scored loses its beginning instead, for the score of an answer is read at its end.
4. A sentence too long to be tagged at once is read in pieces, parted between words.

Legend: B rows, T positions, D width, N texts, X classes, V vocabulary.
Proved by tests/unit/generate/test_reading.py and tests/parity/test_bert.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..core.errors import UserError
from ..layers.pooling import pool
from ..text.answers import encode_answers
from ..text.chat import ChatTemplate
from ..text.entities import OUTSIDE, Entity, entities
from ..text.special import MASKS
from ..text.tokenizer import Tokenizer
from ..text.words import Words, encode_words, pieces, split_words
from . import scoring
from .engine import padded


@dataclass(frozen=True)
class Filling:
    """One candidate for a masked word."""

    text: str
    token: int
    probability: float


@dataclass(frozen=True)
class Label:
    """The likeliest class of a text, and the probability of each class."""

    label: str
    probability: float
    probabilities: dict[str, float]


@dataclass(frozen=True)
class Tagging:
    """Words with the likeliest tag of each and its probability."""

    words: list[str]
    tags: list[str]
    probabilities: list[float]

    @property
    def entities(self) -> list[Entity]:
        """Runs of words that the tags join."""
        return entities(self.tags)


class Reader:
    """Reads texts with one model; a template is needed for conversations only."""

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Tokenizer,
        batch_size: int = 32,
        template: ChatTemplate | None = None,
    ) -> None:
        self.model, self.tokenizer, self.batch_size = model, tokenizer, batch_size
        self.template = template

    @property
    def task(self) -> str:
        """What the model's head gives: classes, tags, embedding, score, or words."""
        return getattr(self.model.config, "task", "words")

    @torch.inference_mode()
    def embed(self, texts: Sequence[str]) -> Tensor:
        """One vector for each text, float32 [N, D].

        That of the embedding or class head; of a model with another head, the mean of its hidden vectors.
        """
        if self.model.reads_source:
            raise UserError("this model embeds no texts", why="it reads a source and writes a target")
        found_ND = torch.empty(len(texts), self.model.embedding.embedding_dim)
        for places, hidden_BTD, segments_BT in self._read(self._ids(texts)):
            if self.task in ("tags", "words"):
                hidden_BTD = pool(hidden_BTD, segments_BT, "mean")
            found_ND[places] = hidden_BTD[:, 0].float().cpu()
        return found_ND

    @torch.inference_mode()
    def classify(self, texts: Sequence[str]) -> list[Label]:
        """The class of each text."""
        self._require("classes", "classify")
        labels = self.model.config.labels
        found_NX = torch.empty(len(texts), len(labels))
        for places, hidden_BTD, _ in self._read(self._ids(texts)):
            found_NX[places] = self.model.head(hidden_BTD[:, 0]).float().softmax(dim=-1).cpu()
        answers = []
        for row in found_NX.tolist():
            best = max(range(len(labels)), key=row.__getitem__)
            answers.append(Label(labels[best], row[best], dict(zip(labels, row, strict=True))))
        return answers

    def score(self, texts: Sequence[Any]) -> list[float]:
        """The score of each: a text, a row of ids, or a conversation (messages) that ends with the answer.

        A conversation is rendered as the reward model was trained: by the template, if there is one.
        """
        scoring.require(self.model)
        return scoring.scores(self.model, self.rows(texts), self.batch_size)

    def rows(self, texts: Sequence[Any]) -> list[list[int]]:
        """The ids of each that are read for its score; what is too long loses its beginning, but not bos."""
        most, bos = self.model.max_length, self.tokenizer.beginning
        rows = []
        for row in map(self._row, texts):
            if most is not None and len(row) > most:
                kept = bos if row[: len(bos)] == bos else []
                row = [*kept, *row[len(row) - most + len(kept) :]]
            rows.append(row)
        return rows

    def _row(self, given: Any) -> list[int]:
        if isinstance(given, str):
            return framed(self.tokenizer, self.tokenizer.encode_plain(given))
        if given and isinstance(given[0], int):
            return list(given)
        if not given or _role(given[-1]) != "assistant":
            raise UserError(
                "a conversation to score ends with an answer of the assistant",
                why=f"the last message is of {_role(given[-1])}" if given else "it is empty",
            )
        return encode_answers([(given[:-1], given[-1:])], self.tokenizer, self.template)[0].ids

    @torch.inference_mode()
    def tag(self, sentences: Sequence[str | Sequence[str]]) -> list[Tagging]:
        """Tags of each sentence; a text is cut into words and marks first."""
        self._require("tags", "tag")
        labels = self.model.config.labels
        texts = [split_words(s) if isinstance(s, str) else list(s) for s in sentences]
        encoded = encode_words(self.tokenizer, texts)
        rows, origins = [], []
        for number, words in enumerate(encoded):
            for start, stop in pieces(words, self._room):
                rows.append(framed(self.tokenizer, words.ids[start:stop]))
                origins.append((number, start, stop))
        before = len(self.tokenizer.beginning)
        scores: list[list[list[float]]] = [[] for _ in rows]
        for places, hidden_BTD, _ in self._read(rows):
            found_BTX = self.model.head(hidden_BTD).float().softmax(dim=-1).cpu()
            for place, found_TX in zip(places, found_BTX, strict=True):
                _, start, stop = origins[place]
                scores[place] = found_TX[before : before + stop - start].tolist()
        by_token: list[list[list[float]]] = [[] for _ in encoded]
        for (number, _, _), piece in zip(origins, scores, strict=True):
            by_token[number] += piece
        return [
            _tagging(words, text, labels, found)
            for words, text, found in zip(encoded, texts, by_token, strict=True)
        ]

    @torch.inference_mode()
    def fill(self, text: str, count: int = 5) -> list[list[Filling]]:
        """The `count` likeliest tokens for each mask in the text ([MASK] or <mask> works with every vocabulary)."""
        if self.task != "words" or self.model.generates or self.model.reads_source:
            raise UserError(
                "this model fills no masked words", why=f"it is of kind {self.model.config.kind}",
                fix="use an encoder with its own head: BERT, or a run of stage=mask",
            )  # fmt: skip
        mask = self.tokenizer.mask
        if mask is None:
            raise UserError(
                "the tokenizer has no mask token", fix="use the tokenizer the model was trained with"
            )
        for name in MASKS:
            text = text.replace(name, str(self.tokenizer.roles.mask))
        row = framed(self.tokenizer, self.tokenizer.encode(text)[: self._room])
        masked = [place for place, number in enumerate(row) if number == mask]
        if not masked:
            raise UserError(
                "no word is masked", fix='write [MASK] where one is missing: "Paris is the [MASK] of France."'
            )
        answers: list[list[Filling]] = []
        for _, hidden_BTD, _ in self._read([row]):
            probabilities_NV = self.model.head(hidden_BTD[0, masked]).float().softmax(dim=-1)
            probabilities_NV = probabilities_NV[:, : self.tokenizer.size].cpu()
            for values, tokens in zip(*probabilities_NV.topk(min(count, self.tokenizer.size)), strict=True):
                pairs = zip(tokens.tolist(), values.tolist(), strict=True)
                answers.append([Filling(self._shown(token), token, value) for token, value in pairs])
        return answers

    def _shown(self, token: int) -> str:
        return self.tokenizer.decode([token], skip_special=False).strip()

    def _require(self, task: str, verb: str) -> None:
        if self.task != task:
            raise UserError(
                f"this model does not {verb}", why=f"its head gives {self.task}",
                fix=f"train one for it: lmcraft train {verb} base=MODEL data=FILE",
            )  # fmt: skip

    @property
    def _room(self) -> int:
        longest = self.model.max_length
        return 1 << 30 if longest is None else longest - len(framed(self.tokenizer, []))

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        return [framed(self.tokenizer, ids[: self._room]) for ids in self.tokenizer.encode_texts(texts)]

    def _read(self, rows: Sequence[Sequence[int]]) -> Iterator[tuple[list[int], Tensor, Tensor]]:
        """Hidden vectors of batches of rows: which rows, [B, T, D], and the segments; without dropout."""
        device = next(self.model.parameters()).device
        was_training = self.model.training
        self.model.eval()
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        try:
            for start in range(0, len(order), self.batch_size):
                places = order[start : start + self.batch_size]
                tokens_BT, segments_BT = padded([rows[i] for i in places], device)
                yield places, self.model(tokens_BT, segments_BT), segments_BT
        finally:
            self.model.train(was_training)


def framed(tokenizer: Tokenizer, ids: Sequence[int]) -> list[int]:
    """bos + ids + eos, as far as the vocabulary has them."""
    return [*tokenizer.beginning, *ids, *([] if tokenizer.eos is None else [tokenizer.eos])]


def _role(message: Any) -> str:
    return str(message.get("role") if isinstance(message, Mapping) else message.role)


def _tagging(words: Words, text: list[str], labels: Sequence[str], found: list[list[float]]) -> Tagging:
    """The tag of each word is that of its first token; a word without one is outside."""
    tags, probabilities = [], []
    for first in words.first:
        row = found[first] if first is not None else [float(label == OUTSIDE) for label in labels]
        best = max(range(len(labels)), key=row.__getitem__)
        tags.append(labels[best])
        probabilities.append(row[best])
    return Tagging(text, tags, probabilities)
