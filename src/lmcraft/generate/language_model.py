"""A language model ready to use: model, tokenizer, conversation template and Engine, loaded from a path.

A path is a run, a public model directory, an adapter's directory, a GGUF file, or a name in the local store.

Legend: T positions, D width, N texts, V vocabulary.
Proved by tests/contract/test_engine.py and tests/cli/test_life.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..adapt import adapter, directory, entries
from ..adapt.base import directory_of, is_adapter, plain_weights
from ..core.disk import write_json
from ..core.errors import UserError
from ..layers.source import Source
from ..models import weights
from ..text.answers import encode_prompts, words
from ..text.chat import ChatTemplate, Messages
from ..text.tokenizer import Tokenizer
from .beam import Beams, search
from .engine import Completion, Engine, Piece, Score
from .reading import Filling, Label, Reader, Tagging
from .sampling import Sampling

TOKENIZERS = ("tokenizer.json", "vocab.txt")


class LanguageModel:
    """Text in, text out."""

    def __init__(self, model: nn.Module, tokenizer: Tokenizer, template: ChatTemplate | None) -> None:
        self.model, self.tokenizer, self.template = model, tokenizer, template
        ids = {tokenizer.eos, tokenizer.end_of_turn, *(template.stop_ids if template else ())}
        self.engine = Engine(model, tokenizer, sorted(i for i in ids if i is not None))

    @classmethod
    def load(
        cls,
        path: str | Path,
        base: str | Path | None = None,
        adapters: Mapping[str, str | Path] | None = None,
    ) -> LanguageModel:
        """Loads a run, a model or adapter directory, a GGUF file or a name in the store.

        Args:
            base: the model under the adapter that `path` is; default: where the adapter says that it is.
            adapters: more adapters beside the same model, by the names under which they can be switched.

        Raises:
            UserError: there is no model, or an adapter belongs to another one.
        """
        place = directory_of(path)
        beside: dict[str | None, Path] = {name: directory_of(one) for name, one in (adapters or {}).items()}
        if is_adapter(place):
            beside = {None: place, **beside}
            place = directory.base_of(place) if base is None else directory_of(base)
        elif base is not None:
            raise UserError("this is a model, not an adapter", where=str(path), fix="leave base out")
        places = [*beside.values(), place]
        tokenizer = Tokenizer.load(next((one for one in places if _has_tokenizer(one)), place))
        model = directory.load(beside, place, tokenizer) if beside else plain_weights(place)
        template = next((one for one in places if ChatTemplate.exists(one)), place)
        return cls(model, tokenizer, template_of(template, tokenizer))

    @property
    def adapters(self) -> list[str]:
        """Names of the adapters beside the model."""
        return adapter.names(self.model)

    def set_strength(self, strength: float, name: str | None = None) -> None:
        """Turns the dial of one adapter, or of all: 1 as trained, 0 as if it were not there."""
        adapter.set_strength(self.model, strength, name)

    def switch(self, name: str) -> None:
        """Lets one adapter act and no other.

        Raises:
            UserError: there is no adapter of this name.
        """
        adapter.set_strength(self.model, 1.0, name)
        for other in self.adapters:
            if other != name:
                adapter.set_strength(self.model, 0.0, other)

    def merge(self, place: Path) -> float:
        """Writes the adapters into the weights, saves the model and reads it again; this object is then merged.

        Returns:
            the largest difference between logits before and after, over a row of tokens from the whole vocabulary.

        Raises:
            UserError: an adapter cannot be merged, or the merged model answers differently. If that is seen only when
                it is read again, the files stay where they are, for a look at them.
        """
        ids = _probe(self.model)
        before = _answers(self.model, ids)
        self.model = adapter.merge(self.model.eval())
        self.model.adapted = []
        self.engine.model = self.model
        _require_same(before, _answers(self.model, ids))
        self.save(place)
        return _require_same(before, _answers(plain_weights(place), ids))

    def save(self, place: Path) -> None:
        """Writes config, weights (of an adapter only its own), tokenizer, template and generation settings."""
        if entries.kept_apart(self.model):
            directory.save(self.model, place)
        else:
            weights.save(self.model, place)
        self.tokenizer.save(place)
        if self.template is not None:
            (place / "chat_template.jinja").write_text(self.template.source, encoding="utf-8")
        if not self.model.generates:
            return
        ids = {"bos_token_id": self.tokenizer.bos, "eos_token_id": self.engine.stop_ids,
               "pad_token_id": self.tokenizer.pad}  # fmt: skip
        write_json(place / "generation_config.json", {k: v for k, v in ids.items() if v is not None})

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

    def rewards(self, texts: Sequence[Any]) -> list[float]:
        """The score of each text, row of ids or conversation that ends with an answer; see `Reader.score`."""
        return Reader(self.model, self.tokenizer, template=self.template).score(texts)

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
            return source_ids(self.model, self.tokenizer, text)
        return [*self.tokenizer.beginning, *self.tokenizer.encode(text)]

    def asked(self, conversation: Messages) -> list[int]:
        """What the model reads before it answers; one that knows no conversation is given its words, to continue."""
        return asked_ids(self.model, self.tokenizer, self.template, conversation)

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


def source_ids(model: nn.Module, tokenizer: Tokenizer, text: str) -> list[int]:
    """The ids of a source; nothing in it is special."""
    before, after = source_frame(model, tokenizer)
    return [*before, *tokenizer.encode_plain(text), *after]


def asked_ids(
    model: nn.Module, tokenizer: Tokenizer, template: ChatTemplate | None, conversation: Messages
) -> list[int]:
    """What a model reads before it answers: the conversation, its words, or these as a source."""
    if model.reads_source:
        return source_ids(model, tokenizer, words(conversation))
    return encode_prompts([conversation], tokenizer, template)[0]


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


def template_of(directory: Path, tokenizer: Tokenizer) -> ChatTemplate | None:
    """The template beside a model, or None for a base model."""
    return ChatTemplate.load(directory, tokenizer) if ChatTemplate.exists(directory) else None


PROBE_TOKENS = 64
MERGED_TOLERANCE = 1e-3


def _probe(model: nn.Module) -> Tensor:
    """Tokens from the whole vocabulary, the same at every call: [1, T]."""
    vocab = getattr(model.config, "body", model.config).vocab
    length = min(PROBE_TOKENS, model.max_length or PROBE_TOKENS)
    return torch.randint(vocab, (1, length), generator=torch.Generator().manual_seed(0))


@torch.inference_mode()
def _answers(model: nn.Module, ids_BT: Tensor) -> Tensor:
    ids_BT = ids_BT.to(next(model.parameters()).device)
    beside = {"source": Source.of(ids_BT)} if model.reads_source else {}
    return model.head(model(ids_BT, **beside)).float().cpu()


def _require_same(before: Tensor, after: Tensor) -> float:
    """The largest difference; refused where it is more than rounding."""
    difference = float((before - after).abs().max())
    allowed = MERGED_TOLERANCE * max(1.0, float(before.abs().max()))
    if not difference <= allowed:
        raise UserError(
            f"the merged model answers differently: logits differ by {difference:.2e}",
            why=f"rounding explains at most {allowed:.0e}", fix="use the run as it is; and please report this",
        )  # fmt: skip
    return difference


def _has_tokenizer(place: Path) -> bool:
    return place.is_file() or any((place / name).is_file() for name in TOKENIZERS)
