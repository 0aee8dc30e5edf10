"""Perplexity: how well a model predicts text it has not seen, by token, by word and in bits per byte.

    nll = −Σ ln p(token | tokens before it in the window)
    token perplexity = exp(nll / tokens), word perplexity = exp(nll / words), bits per byte = nll / (ln 2 · bytes)

1. A text is read as bos + text; every token of the text is scored exactly once, eos is not. A tokenizer without bos
   leaves the first token unscored, and its bytes are not counted.
2. Of a conversation the answers are scored, each with the token that ends it, given all that was said before; bytes
   and words are those of the answers.
3. Windows of `window` tokens move on by `stride`; only targets not scored before count. So a token sees at least
   window − stride tokens before it, where there are as many.
4. The result does not depend on the batch size, and bits per byte not on the tokenizer.

Legend: B rows, T positions.
Proved by tests/unit/evals/test_perplexity.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field

from ..core.config import Strict
from ..core.errors import UserError
from ..core.log import Progress
from ..data.batch import IGNORE
from ..data.records import Chat, Text
from ..generate.language_model import LanguageModel
from ..train.loss import cross_entropies
from .evaluation import Result


class Config(Strict):
    """Window, stride and batch size."""

    kind: Literal["perplexity"] = "perplexity"
    window: int | None = Field(
        None, gt=1, description="tokens per window; default: the model's context, at most 1024"
    )
    stride: int | None = Field(None, gt=0, description="default: half the window")
    batch_size: int = Field(16, gt=0)


@dataclass(frozen=True)
class _Document:
    ids: list[int]
    scored: list[bool]
    size_bytes: int
    words: int
    where: str


@dataclass(frozen=True)
class _Window:
    """Inputs start … stop-1 of a document; targets from `first` on are scored."""

    document: int
    start: int
    stop: int
    first: int


@torch.inference_mode()
def run(lm: LanguageModel, records: Sequence[Text | Chat], config: Config) -> Result:
    """Perplexity over all records; one sample a record.

    Raises:
        UserError: the model does not continue text, or the settings or records do not fit it.
    """
    if lm.model.reads_source or not lm.model.generates:
        raise UserError(
            "perplexity is of models that continue text", where=f"model.kind={lm.config.kind}",
            fix="for translations measure `bleu`, for an encoder its task",
        )  # fmt: skip
    window = config.window or min(1024, lm.model.max_length or 1024)
    if lm.model.max_length is not None and window > lm.model.max_length:
        raise UserError(
            f"window {window} is longer than the {lm.model.max_length} tokens that the model reads"
        )
    stride = config.stride or max(1, window // 2)
    if stride > window:
        raise UserError(f"stride {stride} is larger than window {window}", fix="lower stride or raise window")
    documents = list(_documents(lm, records))
    windows = [
        w for number, document in enumerate(documents) for w in _windows(number, document, window, stride)
    ]
    if not windows:
        raise UserError("there is nothing to score", why="no record has a token after its first")
    windows.sort(key=lambda w: w.start - w.stop)
    nll = [0.0] * len(documents)
    lm.model.eval()
    with Progress(len(windows), "windows", "perplexity") as progress:
        for start in range(0, len(windows), config.batch_size):
            part = windows[start : start + config.batch_size]
            for w, value in zip(part, _score(lm, documents, part), strict=True):
                nll[w.document] += value
            progress.update(advance=len(part))
    tokens = [sum(document.scored[1:]) for document in documents]
    totals = sum(nll), sum(tokens), sum(d.words for d in documents), sum(d.size_bytes for d in documents)
    settings = {
        "window": window, "stride": stride, "records": len(documents),
        "scored": "answers" if isinstance(records[0], Chat) else "text",
        "first_token": "after bos" if lm.tokenizer.beginning else "not scored",
    }  # fmt: skip
    samples = [
        {"where": d.where, "nll": value, "tokens": count, "bytes": d.size_bytes, "words": d.words}
        for d, value, count in zip(documents, nll, tokens, strict=True)
    ]
    return Result("perplexity", _metrics(*totals), settings, samples)


def _metrics(nll: float, tokens: int, words: int, size_bytes: int) -> dict[str, float]:
    return {
        "bits_per_byte": nll / math.log(2) / max(1, size_bytes),
        "token_perplexity": math.exp(min(700.0, nll / max(1, tokens))),
        "word_perplexity": math.exp(min(700.0, nll / max(1, words))),
        "tokens": tokens,
        "words": words,
        "bytes": size_bytes,
    }


def _documents(lm: LanguageModel, records: Sequence[Text | Chat]) -> Iterator[_Document]:
    tokenizer = lm.tokenizer
    chats = [record for record in records if isinstance(record, Chat)]
    encoded = iter(_encoded(lm, chats))
    for record in records:
        if isinstance(record, Chat):
            rendered = next(encoded)
            answers = [m.content for m in record.messages if m.role == "assistant"]
            size, words = sum(len(a.encode()) for a in answers), sum(len(a.split()) for a in answers)
            yield _Document(rendered.ids, rendered.trained, size, words, str(record.where))
        elif isinstance(record, Text):
            ids = lm.document(record.text)
            size = len(record.text.encode())
            if not tokenizer.beginning and ids:
                size -= len(tokenizer.token_bytes(ids[0]))
            yield _Document(ids, [True] * len(ids), size, len(record.text.split()), str(record.where))
        else:
            raise UserError("perplexity needs texts or conversations", where=str(record.where))


def _encoded(lm: LanguageModel, chats: list[Chat]) -> list:
    if not chats:
        return []
    if lm.template is None:
        raise UserError(
            "a base model cannot be scored on conversations: it has no template",
            fix="give texts, or a model that was fine-tuned to chat",
        )
    return lm.template.encode_all([chat.messages for chat in chats])


def _windows(number: int, document: _Document, window: int, stride: int) -> Iterator[_Window]:
    """Windows of one document; position t predicts id t+1, so the last input is the last id but one."""
    inputs, first = len(document.ids) - 1, 0
    start = 0
    while first < inputs:
        stop = min(start + window, inputs)
        if any(document.scored[first + 1 : stop + 1]):
            yield _Window(number, start, stop, first)
        first = stop
        start += stride


def _score(lm: LanguageModel, documents: list[_Document], windows: list[_Window]) -> list[float]:
    """Summed −ln p of the scored targets of each window, in float64."""
    longest = max(w.stop - w.start for w in windows)
    tokens_BT = torch.zeros(len(windows), longest, dtype=torch.long)
    targets_BT = torch.full_like(tokens_BT, IGNORE)
    segments_BT = torch.zeros_like(tokens_BT)
    for b, w in enumerate(windows):
        document = documents[w.document]
        size = w.stop - w.start
        tokens_BT[b, :size] = torch.tensor(document.ids[w.start : w.stop])
        segments_BT[b, :size] = 1
        for t in range(w.first - w.start, size):
            if document.scored[w.start + t + 1]:
                targets_BT[b, t] = document.ids[w.start + t + 1]
    device = lm.engine.device
    hidden_BTD = lm.model(tokens_BT.to(device), segments_BT.to(device))
    losses_N = cross_entropies(lm.model, hidden_BTD, targets_BT.to(device)).double().cpu()
    counts = (targets_BT != IGNORE).sum(dim=1).tolist()
    return [float(part.sum()) for part in losses_N.split(counts)]
