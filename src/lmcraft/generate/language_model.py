"""A language model ready to use: model, tokenizer, conversation template and Engine, loaded from a path.

A path is a run, a public model directory, a GGUF file, or a name in the local store.

Legend: T positions, D width, N texts, V vocabulary.
Proved by tests/contract/test_engine.py and tests/cli/test_life.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..core import gguf
from ..core.disk import write_json
from ..core.errors import UserError
from ..data.store import resolve
from ..models import weights
from ..models.gguf.load import load as load_gguf
from ..text.chat import ChatTemplate
from ..text.tokenizer import Tokenizer
from .beam import Beams, search
from .engine import Completion, Engine, Piece, Score
from .reading import Filling, Label, Reader, Tagging
from .sampling import Sampling


class LanguageModel:
    """Text in, text out."""

    def __init__(self, model: nn.Module, tokenizer: Tokenizer, template: ChatTemplate | None) -> None:
        self.model, self.tokenizer, self.template = model, tokenizer, template
        ids = {tokenizer.eos, tokenizer.end_of_turn, *(template.stop_ids if template else ())}
        self.engine = Engine(model, tokenizer, sorted(i for i in ids if i is not None))

    @classmethod
    def load(cls, path: str | Path) -> LanguageModel:
        """Loads a run, a model directory, a GGUF file or a name in the store."""
        directory = directory_of(path)
        tokenizer = Tokenizer.load(directory)
        return cls(weights_of(directory), tokenizer, template_of(directory, tokenizer))

    def save(self, directory: Path) -> None:
        """Writes the public layout: config, weights, tokenizer, template, generation settings."""
        weights.save(self.model, directory)
        self.tokenizer.save(directory)
        if self.template is not None:
            (directory / "chat_template.jinja").write_text(self.template.source, encoding="utf-8")
        if not self.model.generates:
            return
        ids = {"bos_token_id": self.tokenizer.bos, "eos_token_id": self.engine.stop_ids,
               "pad_token_id": self.tokenizer.pad}  # fmt: skip
        write_json(directory / "generation_config.json", {k: v for k, v in ids.items() if v is not None})

    @property
    def config(self) -> Any:
        """The model's Config."""
        return self.model.config

    def generate(self, prompt: str, **settings: Any) -> Completion:
        """Continues raw text, or answers it as a source (translation, summary); settings are those of `Sampling`."""
        return self.complete([self.ids(prompt)], Sampling(**settings))[0]

    def complete(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling | Sequence[Sampling]
    ) -> list[Completion]:
        """One completion for each prompt, or for each source if the model reads sources; all as `ids` gives them."""
        if not self.model.reads_source:
            return self.engine.generate(prompts, sampling)
        return self.engine.generate([[self.start_id]] * len(prompts), sampling, sources=prompts)

    def search(self, prompts: Sequence[Sequence[int]], beams: Beams) -> list[Completion]:
        """The best answer that beam search finds for each prompt or source, all as `ids` gives them."""
        if not self.model.reads_source:
            return search(self.engine, prompts, beams)
        return search(self.engine, [[self.start_id]] * len(prompts), beams, sources=prompts)

    def chat(self, messages: Sequence[Mapping[str, str]], **settings: Any) -> Completion:
        """Answers a conversation; settings are those of `Sampling`."""
        return self.engine.generate([self.prompt(messages)], Sampling(**settings))[0]

    def stream(self, ids: Sequence[int], sampling: Sampling) -> Iterator[Piece]:
        """Pieces of one answer as they come; for a model that reads a source, `ids` are the source."""
        if self.model.reads_source:
            return self.engine.stream([[self.start_id]], [sampling], [ids])
        return self.engine.stream([ids], [sampling])

    def score(self, context: str, continuation: str) -> Score:
        """How likely `continuation` is after `context`; the two are tokenized apart, as in training on answers."""
        return self.engine.score([(self.ids(context), self.tokenizer.encode(continuation))])[0]

    def embed(self, texts: Sequence[str]) -> Tensor:
        """One vector for each text, float32 [N, D]; see `Reader.embed`."""
        return Reader(self.model, self.tokenizer).embed(texts)

    def classify(self, texts: Sequence[str]) -> list[Label]:
        """The class of each text, with the probability of every class."""
        return Reader(self.model, self.tokenizer).classify(texts)

    def tag(self, sentences: Sequence[str | Sequence[str]]) -> list[Tagging]:
        """The tag of every word; sentences are texts, or lists of words."""
        return Reader(self.model, self.tokenizer).tag(sentences)

    def fill(self, text: str, count: int = 5) -> list[list[Filling]]:
        """For each [MASK] in the text the `count` likeliest tokens."""
        return Reader(self.model, self.tokenizer).fill(text, count)

    @torch.inference_mode()
    def logits(self, ids: Sequence[int]) -> Tensor:
        """Logits after each position, float32 [T, V]."""
        tokens_BT = torch.tensor([list(ids)], device=self.engine.device)
        return self.model.head(self.model(tokens_BT))[0].float()

    def document(self, text: str) -> list[int]:
        """bos and the ids of a text in which nothing is special: how a document begins in pre-training."""
        return [*self.tokenizer.beginning, *self.tokenizer.encode_plain(text)]

    def ids(self, text: str) -> list[int]:
        """bos and the ids of a prompt, or the ids of a source; special tokens may be written in it."""
        if self.model.reads_source:
            before, after = source_frame(self.model, self.tokenizer)
            return [*before, *self.tokenizer.encode_plain(text), *after]
        return [*self.tokenizer.beginning, *self.tokenizer.encode(text)]

    @property
    def start_id(self) -> int:
        """The id with which every target of a sequence-to-sequence model begins."""
        return start_id(self.model, self.tokenizer)

    def prompt(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """A conversation's ids, ending where the assistant is to speak."""
        if self.template is None:
            raise UserError(
                "this is a base model: it continues text and knows no conversation",
                why="it has no chat template",
                fix="use `lmcraft generate`, or fine-tune it first with `lmcraft train sft`",
            )
        return self.template.prompt(messages)


def source_frame(model: nn.Module, tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """What stands before and behind the ids of a source: eos behind it, and for some public models bos before it."""
    before = [tokenizer.bos] if getattr(model.config, "source_bos", False) else []
    return [i for i in before if i is not None], [] if tokenizer.eos is None else [tokenizer.eos]


def start_id(model: nn.Module, tokenizer: Tokenizer) -> int:
    """The first id of every target: the model's own, or the tokenizer's bos."""
    first = getattr(model.config, "start_id", None)
    first = tokenizer.bos if first is None else first
    if first is None:
        raise UserError(
            "this model has no token to begin a target with",
            why="neither its config has a start_id nor its tokenizer a bos token",
        )
    return first


def directory_of(path: str | Path) -> Path:
    """The model directory, or GGUF file, that a run, a directory, a file or a store name stands for."""
    place = resolve(path)
    if place.is_file():
        return _model_file(place)
    alone = sorted(place.glob("*.gguf")) if place.is_dir() and not (place / "config.json").is_file() else []
    if len(alone) == 1:
        return alone[0]
    if (place / "config.json").is_file():
        return place
    if (place / "model" / "config.json").is_file():
        return place / "model"
    if (place / "origin.json").is_file():
        raise UserError(
            "this run has no model yet", where=str(place), why="its training has not ended",
            fix="run the same train command again to finish it",
        )  # fmt: skip
    raise UserError(
        "there is no model here", where=str(path), why="neither a run nor a directory with config.json",
        fix="`lmcraft runs` and `lmcraft models` list what there is",
    )  # fmt: skip


def _model_file(place: Path) -> Path:
    if gguf.is_gguf(place):
        return place
    fix = "name a .gguf file, or the directory that holds config.json and model.safetensors"
    if gguf.is_pickled(place):
        raise UserError("this is a pickle, which could run code when it is read", where=str(place), fix=fix)
    raise UserError(
        "this file is not a model", where=str(place), why="it does not begin as GGUF files do", fix=fix
    )


def weights_of(place: Path) -> nn.Module:
    """The model in a directory or a GGUF file, in float32 and evaluation mode."""
    return load_gguf(place) if place.is_file() else weights.load(place)


def template_of(directory: Path, tokenizer: Tokenizer) -> ChatTemplate | None:
    """The template beside a model, or None for a base model."""
    return ChatTemplate.load(directory, tokenizer) if ChatTemplate.exists(directory) else None
