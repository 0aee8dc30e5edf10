"""Turns a recipe into everything that the loop needs: records, tokenizer, template, model, loaders.

Nothing of the run is written here; token shards go into the cache, keyed by everything they depend on.

Proved by tests/cli/test_life.py, tests/cli/test_bad_input.py, tests/contract/test_stages.py and
tests/contract/test_stages_with_adapters.py.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .adapt import directory, entries, quantize
from .adapt.base import directory_of, fingerprint
from .core import find
from .core.device import device, home
from .core.errors import UserError
from .core.log import Progress, say
from .core.run import digest
from .data import dataset, tokens
from .data.loader import Loader
from .data.records import parts
from .generate.language_model import LanguageModel
from .models import model as models
from .recipe import Recipe
from .stages.stage import begin
from .text.chat import ChatTemplate
from .text.tokenizer import SPECIALS, Tokenizer
from .train import randomness
from .train.parallel import ALONE, Ranks
from .train.precision import choose, reads_halves, warning

LABELS = ("label", "tags")  # parts of records that no model reads


@dataclass(frozen=True)
class Work:
    """Everything that training needs, made from a recipe."""

    recipe: Recipe
    stage: Any
    model: nn.Module
    tokenizer: Tokenizer
    template: ChatTemplate | None
    loader: Loader
    held: Loader | None
    held_records: list
    facts: dict[str, Any]


def prepare(asked: Recipe, place: Path, stored: dict[str, Any] | None, ranks: Ranks = ALONE) -> Work:
    """Data, tokenizer, model and the complete recipe; nothing of the run is written."""
    randomness.seed(asked.seed)
    stage_module = find.module("stages", asked.stage.kind)
    stage = begin(stage_module, asked.stage, asked.adapter)
    base = directory_of(asked.base) if asked.base else None
    data = dataset.prepare(asked.data, asked.seed)
    tokenizer = _tokenizer(asked, base, place, data, getattr(stage_module, "SPECIALS", ()))
    template = _template(asked, base, tokenizer, getattr(stage_module, "TEXT_TOO", False))
    model = (
        directory.finished(base, tokenizer)
        if base
        else models.build(asked.model.model_copy(update={"vocab": asked.model.vocab or tokenizer.size}))
    )
    own = None if asked.base else model.config  # a head that the stage adds is not what was asked for
    work_device = device()
    precision = _precision(asked, stored, work_device)
    halved = reads_halves(precision, asked.train.offload, ranks.kind)
    model = adapted(
        asked, base, model, lambda model: stage.ready(model, data.train, tokenizer), tokenizer, halved
    )
    if model.config.vocab < tokenizer.size:
        raise UserError(
            f"the model has {model.config.vocab} token embeddings, the tokenizer {tokenizer.size} tokens",
            fix="use the tokenizer that belongs to the model, or leave model.vocab out",
        )
    counts: Counter = Counter()
    width = _width(asked, model)
    loader, held = _loaders(asked, data, stage_module, stage, tokenizer, template, width, counts, ranks)
    steps = max(1, round(asked.train.epochs * len(loader.rows) / asked.train.batch_size))
    lr = asked.train.lr or _learning_rate(asked, stage_module)
    train_config = asked.train.model_copy(update={"lr": lr, "precision": precision})
    facts = {
        **data.report, **counts, **{f"rows: {k}": v for k, v in asdict(loader.fill).items()},
        "shard": loader.tokens.meta["key"], "preview": _preview(loader, tokenizer),
        "base_fingerprint": getattr(stage, "base_fingerprint", ""), **_quantized(asked, model),
    }  # fmt: skip
    model = model.to(work_device)
    chat = template if stage_module.CHAT else None
    if hasattr(stage, "experience"):  # it trains on what the model says
        _refuse_processes(ranks)
        loader = stage.experience(loader, LanguageModel(model, tokenizer, chat), data.train, train_config)
        steps = loader.steps(asked.train.epochs)
    complete = asked.model_copy(update={
        "train": train_config.model_copy(update={"steps": asked.train.steps or steps}), "out": str(place), "model": own,
        "data": asked.data.model_copy(update={"context": width}),
    })  # fmt: skip
    # Of held-out prompts there is no loss: what would be the answer?
    measured = held if held.rows and not hasattr(stage, "experience") else None
    return Work(complete, stage, model, tokenizer, chat, loader, measured, data.held, facts)


def _loaders(
    asked: Recipe, data: dataset.Dataset, stage_module: Any, stage: Any, tokenizer: Tokenizer,
    template: ChatTemplate | None, width: int, counts: Counter, ranks: Ranks,
) -> list[Loader]:  # fmt: skip
    """What is trained on, and what is held out."""
    group = getattr(asked.stage, "group", 1)
    _refuse_uneven(asked, group, ranks)
    pack, finish = asked.data.pack and stage_module.PACK, getattr(stage, "finish", None)
    loaders = []
    for name, records in (("train", data.train), ("held out", data.held)):
        shard = _shard(asked, name, records, stage, tokenizer, template, width, counts)
        loaders.append(
            Loader(
                shard, width, asked.train.batch_size, asked.seed, pack, ranks.rank, ranks.world, finish, group
            )
        )
    if not loaders[0].rows:
        raise UserError("there is nothing to train on", where=", ".join(asked.data.files),
                        why="every record was dropped", fix="raise data.context or look at `lmcraft data`")  # fmt: skip
    return loaders


def _width(asked: Recipe, model: nn.Module) -> int:
    """Tokens of a row: as asked, or as many as the model reads; a soft prompt takes some of them."""
    most = model.max_length
    width = asked.data.context or min(model.config.context, 1 << 16, most or 1 << 16)
    if most is not None and width > most:
        raise UserError(f"data.context is {width}, the model reads at most {most} tokens",
                        where=asked.base, fix=f"leave data.context out, or at most {most}")  # fmt: skip
    return width


def _refuse_processes(ranks: Ranks) -> None:
    """What the processes say to their prompts would have to be judged together."""
    if ranks.together:
        raise UserError(
            "this stage runs in one process", where=f"torchrun with {ranks.world} processes",
            why="its rounds of answers are not shared among processes yet", fix="start it without torchrun",
        )  # fmt: skip


def _refuse_uneven(asked: Recipe, group: int, ranks: Ranks) -> None:
    """Every process has to have the same number of rows, in whole groups."""
    step = ranks.world * (group if ranks.world > 1 else 1)
    rows = asked.train.batch_size
    if rows % step:
        below, above = rows // step * step, -(-rows // step) * step
        groups = f", and {group} rows belong together" if group > 1 else ""
        raise UserError(
            f"train.batch_size={rows} cannot be divided evenly among {ranks.world} processes",
            where=f"train.batch_size={rows}", why=f"each takes as many rows of every step as the others{groups}",
            fix=f"choose {f'{below} or ' if below else ''}{above}, or another number of processes",
        )  # fmt: skip


def adapted(
    asked: Recipe,
    base: Path | None,
    model: nn.Module,
    ready: Callable[[nn.Module], nn.Module],
    tokenizer: Tokenizer,
    halved: bool,
) -> nn.Module:
    """The model as the stage needs it, with the recipe's adapters; all but them and a fresh head is then frozen.

    Args:
        halved: keep frozen matrices in bfloat16, where the adapters allow it.
    """
    if not asked.adapter:
        return ready(model)
    if base is None:
        raise UserError(
            "an adapter changes a finished model, and there is none", where="adapter", why="base is not given",
            fix="name the run or model to start from: base=runs/book",
        )  # fmt: skip
    under, own = entries.Base(str(base), fingerprint(model)), list(model.parameters())
    model = ready(model)
    for parameter in own:
        parameter.requires_grad_(False)
    if halved:
        model = entries.halved(model, asked.adapter)
    randomness.seed(asked.seed)  # whatever was drawn before, the same seed gives the same adapter
    model = entries.apply(model, asked.adapter, under, tokenizer)
    entries.require_trained(model)
    return model


def _quantized(asked: Recipe, model: nn.Module) -> dict[str, Any]:
    """What quantizing did to each layer, where that was asked for."""
    if not any(entry.kind == "quantize" for entry in asked.adapter):
        return {}
    errors = quantize.errors(model)
    worst = max(errors, key=lambda error: error.relative_rms)
    say(
        f"{len(errors)} layers are quantized; most changed is {worst.path}, by {worst.relative_rms:.1%} of its RMS"
    )
    return {"quantized": [asdict(error) for error in errors]}


def _learning_rate(asked: Recipe, stage: Any) -> float:
    """That of the adapter that has one of its own, or the stage's."""
    rates = [getattr(find.module("adapt", entry.kind), "LR", None) for entry in asked.adapter]
    return next((rate for rate in rates if rate), stage.LR)


def _tokenizer(
    asked: Recipe, base: Path | None, place: Path, data: dataset.Dataset, specials: Sequence[str]
) -> Tokenizer:
    """The tokenizer that is named, the base's, or a new one; a model that is new may have one with more `specials`."""
    if asked.tokenizer.path:
        given = Tokenizer.load(asked.tokenizer.path)
        return given if base or not specials or given.mask is not None else given.extended(specials)
    if base:
        return Tokenizer.load(base)
    if (place / "tokenizer" / "tokenizer.json").is_file():  # a run that is resumed has made its own
        return Tokenizer.load(place / "tokenizer")
    say(f"training a tokenizer of {asked.tokenizer.vocab} tokens")
    texts = (text for r in data.train for name, text in parts(r) if name not in LABELS)
    return Tokenizer.train(texts, asked.tokenizer.vocab, (*SPECIALS, *specials))


def _template(asked: Recipe, base: Path | None, tokenizer: Tokenizer, text_too: bool) -> ChatTemplate | None:
    """The template that is named, the base's, or chatml; None for a base without one, if the stage takes text too."""
    if asked.template:
        return ChatTemplate.load(asked.template, tokenizer)
    if base and ChatTemplate.exists(base):
        return ChatTemplate.load(base, tokenizer)
    return None if base and text_too else ChatTemplate.load("chatml", tokenizer)


def _shard(
    asked: Recipe, name: str, records: list, stage: Any, tokenizer: Tokenizer, template: ChatTemplate | None,
    width: int, counts: Counter,
) -> tokens.Tokens:  # fmt: skip
    """The records as token shards, from the cache if the same were made before."""
    sources = [
        digest(Path(file)) for file in sorted({str(r.where.file) for r in records}) if Path(file).exists()
    ]
    settings = {
        "version": tokens.VERSION,
        "name": name,
        "stage": asked.stage.model_dump(mode="json"),
        "facts": stage.facts,
        "tokenizer": tokenizer.digest,
        "template": template.source if template else None,
        "width": width,
        "data": asked.data.model_dump(mode="json", exclude={"context"}),  # it is `width`
        "seed": asked.seed,
        "sources": sources,
        "records": len(records),
    }
    key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:32]

    def documents() -> Iterator[tokens.Document]:
        with Progress(None, "documents", f"tokenizing ({name})") as progress:
            for document in stage.documents(records, tokenizer, template, width, own):
                progress.update()
                yield document

    own: Counter = Counter()
    shard = tokens.write(home() / "tokens" / key, documents(), tokenizer.size, {"key": key}, own)
    if name == "train":
        counts.update(shard.meta["counts"])
    return shard


def _precision(asked: Recipe, stored: dict[str, Any] | None, where: torch.device) -> str:
    if asked.train.precision == "auto" and stored is not None:
        return stored["train"]["precision"]
    if said := warning(asked.train.precision, where):
        say(f"warning: {said}")
    return choose(asked.train.precision, where)


def _preview(loader: Loader, tokenizer: Tokenizer) -> list[dict[str, Any]]:
    """The first rows as the model will see them, a source first: each token's text and whether it is a target."""
    shown = []
    for row in range(min(2, len(loader.rows))):
        piece = loader.rows[row][0]
        first = int(loader.tokens.offsets[piece.document])
        span = slice(first + piece.start, first + piece.stop + (not loader.labelled))
        ids, trained = loader.tokens.ids[span].tolist(), loader.tokens.trained[span].tolist()
        source = loader.tokens.source(piece.document).tolist()
        shown_ids = zip([*source, *ids], [False] * len(source) + trained, strict=True)
        pieces = [[tokenizer.decode([i], skip_special=False), t] for i, t in [*shown_ids][:400]]
        shown.append({"where": loader.tokens.where(piece.document), "tokens": pieces})
    return shown
