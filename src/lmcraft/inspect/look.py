"""Looks into a model while it reads one text: everything that the page shows, as numbers.

1. A language model reads bos and the text; a target after it is a continuation, tokenized apart as in training on
   answers. A model that reads a source takes the text for it; the target is what was given, or what the model writes.
2. A model that fills masks predicts every token with that token masked (lmcraft.inspect.masked); what it attends to is
   shown for the text as it is.
3. Where nothing attends, the gradients of the predictions tell what they depend on (lmcraft.inspect.influence).
4. A text that is too long for a page is cut at its end, which is said in the notes.

Legend: B rows, T positions, S source positions, D width, V vocabulary.
Proved by tests/unit/inspect/test_look.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..core.errors import UserError
from ..generate.language_model import LanguageModel
from ..generate.sampling import Sampling
from ..layers.source import Source
from ..models.model import count_parameters
from .influence import influence
from .lens import Lens, lens, stream
from .masked import framed, read_masked
from .pieces import Piece, pieces
from .predictions import Prediction, Total, predictions, total
from .record import Map, maps, recorded, sides
from .shapes import Call, MemoryUse, folded, memory_use, traced

MAX_TOKENS = 256


@dataclass(frozen=True)
class Asked:
    """The ids to look at: a source (None for models without one), and a target whose first `given` ids are context.

    The model reads the first `read` ids of the target; `written` says that it wrote them itself.
    """

    source: list[int] | None
    target: list[int]
    given: int
    read: int
    notes: list[str] = field(default_factory=list)
    written: bool = False


@dataclass(frozen=True)
class Inspection:
    """What was seen. `predictions[t]` is about `target[t + 1]`; if `masked`, about `target[t]` itself.

    `predictions` is None for a model whose head has no scores for tokens; `gradient` says that `maps` are influences,
    `written` that the model wrote the target itself.
    """

    kind: str
    parameters: int
    vocab: int
    source: list[Piece]
    target: list[Piece]
    given: int
    read: int
    predictions: list[Prediction] | None
    maps: list[Map]
    gradient: bool
    lens: Lens | None
    calls: list[Call]
    memory: MemoryUse | None
    masked: bool
    written: bool
    notes: list[str]

    @property
    def total(self) -> Total:
        """All losses together."""
        return total(self.predictions or [])

    @property
    def target_total(self) -> Total:
        """The losses of what comes after the context alone."""
        return total((self.predictions or [])[max(0, self.given - 1) :])


def look(
    lm: LanguageModel, text: str, target: str | None = None, *, chat: bool = False, top: int = 5,
    max_new_tokens: int = 128,
) -> Inspection:  # fmt: skip
    """Reads `text` (and `target`) with the model and keeps what passes.

    Args:
        chat: the text is a user's message, put into the model's template.
        top: how many of the likeliest tokens are kept for each position.
        max_new_tokens: longest target that a model with a source writes by itself.

    Raises:
        UserError: nothing to look at, or the text and the model do not fit.
    """
    asked = ask(lm, text, target, chat, max_new_tokens)
    model = lm.model
    was_training = model.training
    model.eval()
    try:
        return _look(lm, asked, top)
    finally:
        model.train(was_training)


def ask(lm: LanguageModel, text: str, target: str | None, chat: bool, max_new_tokens: int) -> Asked:
    """The ids that a text and a target stand for, cut to what a page can show and the model can read."""
    notes: list[str] = []
    encode = lm.tokenizer.encode_plain
    if lm.model.reads_source:
        source = _cut(lm.ids(text), lm, "source", notes)
        if not source:
            raise UserError("there is nothing to read", fix="give a text")
        if target is None:
            limit = min(max_new_tokens, _longest(lm))
            written = lm.complete([source], Sampling(temperature=0, max_new_tokens=limit))[0]
            ids = [lm.start_id, *written.tokens]
            notes.append("The target is what the model writes by itself, always the likeliest token.")
        else:
            ids = [lm.start_id, *encode(target), *([] if lm.tokenizer.eos is None else [lm.tokenizer.eos])]
        ids = _cut(ids, lm, "target", notes, spare=1)
        return Asked(source, ids, 1, max(1, len(ids) - 1), notes, written=target is None)
    if not lm.model.generates:
        if target is not None or chat:
            raise UserError(
                "this model reads a text as a whole", why="it continues nothing and answers nothing",
                fix="leave --target and --chat out",
            )  # fmt: skip
        ids = _cut(framed(lm.tokenizer, text), lm, "text", notes)
        return Asked(None, ids, 1, len(ids), notes)
    context = lm.prompt([{"role": "user", "content": text}]) if chat else lm.ids(text)
    ids = _cut([*context, *([] if target is None else encode(target))], lm, "text", notes)
    if not ids:
        raise UserError("there is nothing to read", fix="give a text")
    return Asked(None, ids, len(context) if target is not None else 1, len(ids), notes)


def _longest(lm: LanguageModel) -> int:
    return min(MAX_TOKENS, lm.model.max_length or MAX_TOKENS)


def _cut(ids: list[int], lm: LanguageModel, what: str, notes: list[str], spare: int = 0) -> list[int]:
    longest = _longest(lm) + spare
    if len(ids) <= longest:
        return ids
    why = "the model reads no more" if lm.model.max_length == longest - spare else "a page shows no more"
    notes.append(f"Only the first {longest} of {len(ids)} tokens of the {what} are looked at: {why}.")
    return ids[:longest]


@torch.no_grad()
def _look(lm: LanguageModel, asked: Asked, top: int) -> Inspection:
    model, device = lm.model, lm.engine.device
    tokens_BT = torch.tensor([asked.target[: asked.read]], device=device)
    reads: dict[str, Any] = {}
    if asked.source is not None:
        reads = {"source": Source.of(torch.tensor([asked.source], device=device))}
    side_of = sides(model)
    caught = stream(model)
    with ExitStack() as watching:
        found = watching.enter_context(recorded(model))
        calls = watching.enter_context(traced(model))
        if caught is not None:
            watching.enter_context(caught)
        hidden_TD = model(tokens_BT, **reads)[0]
        logits = model.head(hidden_TD)
    seen = maps(found, side_of)
    layers = [] if caught is None else [layer_BTD[0] for layer_BTD in caught.layers]
    speaks = logits.shape[-1] == model.config.vocab
    actual = _actual(asked)
    gradient = not seen and speaks
    if gradient:
        seen = influence(model, tokens_BT, reads.get("source"), actual)
    masked = speaks and not model.generates
    if masked:
        speaks = lm.tokenizer.mask is not None
        if speaks:
            hidden_TD, layers, actual = read_masked(model, lm.tokenizer, asked.target, caught)
            logits = model.head(hidden_TD)
        else:
            asked.notes.append("The tokenizer has no mask token, so nothing is predicted.")
    asked.notes.extend(said(model.config, logits))
    told = predictions(logits, actual, top) if speaks else None
    return Inspection(
        kind=model.config.kind, parameters=count_parameters(model), vocab=logits.shape[-1],
        source=pieces(asked.source or [], lm.tokenizer), target=pieces(asked.target, lm.tokenizer),
        given=asked.given, read=asked.read, predictions=told, maps=seen, gradient=gradient,
        lens=lens(model, caught, layers, hidden_TD) if caught is not None and speaks else None,
        calls=folded(calls), memory=memory_use(model), masked=masked, written=asked.written,
        notes=asked.notes,
    )  # fmt: skip


def _actual(asked: Asked) -> list[int | None]:
    """The token that comes after each position that is read."""
    return [*asked.target[1 : asked.read + 1], *([None] if asked.read == len(asked.target) else [])]


def said(config: Any, logits: Tensor) -> list[str]:
    """What a model with a head for classes says of the whole text."""
    labels = list(getattr(config, "labels", ()))
    if getattr(config, "task", None) != "classes" or len(labels) != logits.shape[-1]:
        return []
    shares = torch.softmax(logits[0].float(), dim=-1).tolist()
    ordered = sorted(zip(shares, labels, strict=True), reverse=True)
    return ["Classes: " + ", ".join(f"{label} {100 * share:.1f} %" for share, label in ordered[:8])]


def rows_of(seen: Sequence[Map], side: str) -> list[Map]:
    """The maps of one side, in the order of its layers."""
    return [one for one in seen if one.side == side]
