"""From what `lmcraft train` would be asked to a plan: stage, model and adapters are put together without any weights.

1. A base is described by its config.json alone. A tokenizer is needed for its size and special tokens only; where there
   is none yet, a small one stands in.
2. Data is read only where the head depends on it (classes, tags), and only if it is there.

Proved by tests/cli/test_plan.py.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .adapt import entries
from .adapt.base import directory_of
from .core import find
from .core.device import device, memory_bytes
from .core.errors import UserError
from .data import dataset
from .data.records import Labeled, Tagged, Where
from .data.store import resolve
from .models import weights
from .recipe import Recipe
from .rl.critic import NAME as CRITIC
from .stages.stage import begin
from .text.tokenizer import SPECIALS, Tokenizer
from .train import loop
from .train.ledger import Ledger
from .train.plan import Plan, calibrate, plan
from .train.precision import choose, reads_halves
from .train.reference import only_adapters_train
from .train.rehearsal import Rows
from .train.weightless import Weightless

SMALLEST_VOCABULARY = 300
# Share of the positions that is trained where nothing is known of the data.
TRAINED = {"mask": 0.15}
ONE_TARGET = ("classify", "reward", "dpo")
SIGNALS = ("margin", "weight")
TWO_SIDED = ("embed", "reward", "dpo")  # read a second row beside each row


@dataclass(frozen=True)
class Planned:
    """A plan, and what it is for."""

    plan: Plan
    recipe: Recipe
    rows: Rows
    config: Any


def of_recipe(asked: Recipe, ranks: int = 1) -> Planned:
    """The plan of a recipe.

    Raises:
        UserError: the stage, an adapter or the base does not work so.
    """
    module = find.module("stages", asked.stage.kind)
    stage = begin(module, asked.stage, asked.adapter)
    config = asked.train.model_copy(update={
        "lr": asked.train.lr or module.LR, "precision": choose(asked.train.precision, device()),
    })  # fmt: skip
    model = _model(asked, stage, module, reads_halves(config.precision, config.offload, config.parallel))
    width = asked.data.context or min(model.config.context, 1 << 16, model.max_length or 1 << 16)
    if model.max_length is not None and width > model.max_length:
        raise UserError(f"data.context is {width}, the model reads at most {model.max_length} tokens",
                        fix=f"leave data.context out, or at most {model.max_length}")  # fmt: skip
    kind = asked.stage.kind
    rows = Rows(
        width, source=width if model.reads_source or kind in TWO_SIDED else 0,
        documents=2 if asked.data.pack and module.PACK and width > 1 else 1, trained=TRAINED.get(kind, 1.0),
        one_target=kind in ONE_TARGET, group=getattr(asked.stage, "group", 1),
        signals=SIGNALS if kind in ("reward", "dpo") else (),
    )  # fmt: skip
    if hasattr(stage, "experience"):
        rows = _answers(stage, model, width - min(width - 1, stage.config.rollout.max_new_tokens))
    made = _with_others(plan(stage, model, rows, config, ranks, asked.train.parallel == "fsdp"), stage, model)
    return Planned(made, asked.model_copy(update={"train": config}), rows, model.config)


def of_run(stage: Any, model: nn.Module, loader: Any, config: loop.Config, ranks: int = 1) -> Plan:
    """The plan of a run whose model and rows are there: what its report compares with what was measured."""
    if hasattr(stage, "experience"):
        prompts = loader.prompts.rows
        longest = max(sum(piece.stop - piece.start for piece in row) for row in prompts)
        return _with_others(plan(stage, model, _answers(stage, model, longest), config, ranks), stage, model)
    widest = max(len(row) for row in loader.rows)
    fill = loader.fill
    lengths = [sum(piece.stop - piece.start for piece in row) for row in loader.rows]
    width = loader.width if loader.pack else min(loader.width, -(-max(lengths) // 4) * 4)
    sources = [sum(len(loader.tokens.source(p.document)) for p in row) for row in loader.rows]
    rows = Rows(
        width, source=-(-max(sources) // 4) * 4, documents=min(widest, width),
        trained=fill.targets / max(1, fill.tokens + fill.padding), group=loader.group,
        filled=max(lengths) / width, one_target=fill.targets == fill.documents,
        signals=tuple(loader.tokens.meta.get("signals", ())),
    )  # fmt: skip
    return plan(stage, model, rows, config, ranks, config.parallel == "fsdp")


def _answers(stage: Any, model: nn.Module, prompt: int) -> Rows:
    """Rows of a prompt and an answer as long as it may be; where a source is read, the prompt is that."""
    answer = stage.config.rollout.max_new_tokens
    begin, source = (1, prompt) if model.reads_source else (prompt, 0)
    width = -(-(begin + answer - 1) // 4) * 4
    return Rows(width, source=source, trained=answer / width, token_signals=stage.signals)


def _with_others(made: Plan, stage: Any, model: nn.Module) -> Plan:
    """The plan with the models beside the policy: a reference where that is a copy, and reward models."""
    parts = dict(made.parts)
    named = getattr(stage.config, "reference", "")
    if named:
        parts["reference"] = _stored_bytes(named)
    elif getattr(stage, "needs_reference", False) and not only_adapters_train(model, (CRITIC,)):
        parts["reference"] = sum(
            p.numel() * p.element_size()
            for n, p in model.named_parameters()
            if not n.startswith(f"{CRITIC}.")
        )
    judges = [entry.path for entry in getattr(stage.config, "reward", ()) if entry.kind == "run"]
    if judges:
        parts["reward models"] = sum(map(_stored_bytes, judges))
    return replace(made, parts=parts)


def _stored_bytes(model: str) -> int:
    """The size of a model's weights as they lie on disk."""
    return sum(file.stat().st_size for file in directory_of(model).glob("*.safetensors"))


def remembered_bytes(model: nn.Module, rows: int, length: int) -> int:
    """Bytes of what a model remembers of `rows` sequences of `length` tokens while it writes."""
    if not model.generates or model.reads_source:
        return 0
    ledger = Ledger()
    mode = Weightless(ledger)
    model = mode.copy(model)
    with mode:
        memory = model.start(rows, length)
        size = sum(ledger.live.values())
        del memory
    return size


def _model(asked: Recipe, stage: Any, module: Any, halved: bool) -> nn.Module:
    """The model as it would be trained, on the meta device or without numbers."""
    tokenizer = _tokenizer(asked, module)
    if asked.base:
        model = _base(asked.base)
    else:
        vocabulary = asked.model.vocab or (tokenizer.size if asked.tokenizer.path else asked.tokenizer.vocab)
        model = weights.skeleton(
            asked.model.model_copy(update={"vocab": vocabulary}), weights.MAX_LAYERS, "model"
        )
    own = list(model.parameters())
    with torch.device("meta"):
        model = stage.ready(model, _records(asked), tokenizer)
    mode = Weightless(Ledger())
    if not asked.adapter:
        return mode.copy(model)
    if not asked.base:
        raise UserError("an adapter changes a finished model, and there is none", where="adapter",
                        fix="name the run or model to start from: base=runs/book")  # fmt: skip
    for parameter in own:
        parameter.requires_grad_(False)
    model = mode.copy(model)
    with mode:
        if halved:
            model = entries.halved(model, asked.adapter)
        model = entries.apply(model, asked.adapter, entries.Base(str(asked.base), ""), tokenizer)
    entries.require_trained(model)
    return mode.copy(model)


def _base(name: str) -> nn.Module:
    """The model of a run, a directory or a config.json, without weights."""
    place = resolve(name)
    if place.is_file() and place.name == "config.json":
        return weights.unfilled(place.parent)
    for folder in (place, place / "model"):
        if (folder / "config.json").is_file():
            return weights.unfilled(folder)
    raise UserError(
        "there is no config.json to plan from", where=name,
        fix="name a model directory, a run that has trained a whole model, or a public config.json",
    )  # fmt: skip


def _tokenizer(asked: Recipe, module: Any) -> Tokenizer:
    """The tokenizer that is named or the base's, or a small one in the place of what will be trained."""
    if asked.tokenizer.path:
        return Tokenizer.load(asked.tokenizer.path)
    place = resolve(asked.base) if asked.base else None
    folder = place.parent if place is not None and place.is_file() else place
    for candidate in (folder, folder / "model") if folder is not None else ():
        if (candidate / "tokenizer.json").is_file():
            return Tokenizer.load(candidate)
    return Tokenizer.train(["a"], SMALLEST_VOCABULARY, (*SPECIALS, *getattr(module, "SPECIALS", ())))


def _records(asked: Recipe) -> list:
    """Records for the stages whose head depends on them."""
    kind = asked.stage.kind
    if kind not in ("classify", "tag"):
        return []
    if all(Path(file).exists() for file in asked.data.files):
        return dataset.prepare(asked.data, asked.seed).train
    where = Where("made up", 0)
    if kind == "classify":
        return [Labeled("a", "a", where), Labeled("b", "b", where)]
    return [Tagged(("a", "b"), ("a", "b"), where)]


def speed(planned: Planned) -> float:
    """Floating-point operations a second here, measured on products of the model's shapes."""
    config = planned.config
    width = getattr(config, "width", 256)
    micro = planned.recipe.train.micro_batch_size or planned.recipe.train.batch_size
    return calibrate(width, 4 * width, micro * planned.rows.width, planned.recipe.train.precision)


def facts(planned: Planned) -> dict[str, Any]:
    """A plan as JSON."""
    made = planned.plan
    return {
        "peak_bytes": made.peak, "parts": made.parts, "on_disk_bytes": made.on_disk, "parameters": made.parameters,
        "trained": made.trained, "operations_per_step": made.operations, "ranks": made.ranks,
        "memory_here_bytes": memory_bytes(), "rows": asdict(planned.rows),
        "train": planned.recipe.train.model_dump(mode="json"),
    }  # fmt: skip
