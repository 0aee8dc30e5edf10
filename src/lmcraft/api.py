"""The Python API: `train`, `load`, `evaluate`; the only file that knows all parts.

    for step in train("sft.yaml", overrides=["train.lr=1e-4"]): ...
    lm = load("runs/sft-1");  lm.chat([{"role": "user", "content": "hello"}])
    evaluate("runs/sft-1", "perplexity", ["held-out.jsonl"])

Proved by tests/cli/test_life.py and tests/faults/test_kill.py.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from . import recipe as recipes
from .core import config as configs
from .core import find
from .core.device import device, home, keep_freed_memory, peak_memory_bytes
from .core.errors import UserError
from .core.log import Metrics, Progress, say
from .core.run import Run, digest, to_json
from .data import dataset, tokens
from .data.load import load as load_records
from .data.loader import Loader
from .data.records import Chat, Text, parts
from .data.store import resolve
from .evals.evaluation import Result
from .generate.language_model import LanguageModel, directory_of
from .generate.sampling import Sampling
from .models import model as models
from .models import weights
from .recipe import Recipe
from .report import page
from .text.chat import ChatTemplate
from .text.tokenizer import Tokenizer
from .train import checkpoint, loop, randomness
from .train.heldout import held_out_loss
from .train.loop import Step
from .train.precision import choose

SAMPLES = 3


def load(path: str | Path) -> LanguageModel:
    """The language model of a run, a model directory or a name in the local store."""
    return LanguageModel.load(path)


def evaluate(
    path: str | Path, kind: str, files: Sequence[str] = (), overrides: Sequence[str] = (), limit: int | None = None
) -> Result:
    """Runs one evaluation; if `path` is a run, the result is kept in its `evals/`.

    Without files, a run is measured on the records that were held out from its training.
    """
    module = find.module("evals", kind)
    config = configs.validate(module.Config, configs.read(None, overrides))
    lm = load(path)
    records = load_records(files).require().records if files else held_out(path, lm)
    result = module.run(lm, records[:limit], config)
    if Run.exists(path):
        run = Run.open(path)
        facts = {"metrics": result.metrics, "settings": result.settings, "files": list(files) or ["held out"]}
        run.write_json(f"evals/{kind}.json", facts)
        run.write_text(f"evals/{kind}.samples.jsonl", "".join(json.dumps(s) + "\n" for s in result.samples))
    return result


def held_out(path: str | Path, lm: LanguageModel) -> list:
    """The records that a run held out; conversations as plain texts for a model without a template."""
    if not Run.exists(path):
        raise UserError("there is no data to measure on", where=str(path), fix="name a file: it is not a run")
    config = configs.parse(Run.open(path).config_text, str(Path(path) / "config.yaml"))
    records = dataset.prepare(configs.validate(dataset.Config, config.sub("data")), config.value["seed"]).held
    if not records:
        raise UserError("this run held nothing out", where=str(path), fix="name a file")
    if lm.template is None:
        return [Text("\n".join(text for _, text in parts(record)), record.where) for record in records]
    return records


def place(asked: Recipe, out: str | Path | None = None) -> Path:
    """The directory of a recipe's run."""
    return Path(out or asked.out or _free_name(asked.stage.kind))


def train(
    source: str | Path | Recipe, overrides: Sequence[str] = (), out: str | Path | None = None
) -> Iterator[Step]:
    """Trains as a config says; yields after every optimizer step. An unfinished run at `out` is resumed.

    Args:
        source: a YAML file, the name of a stage, or a Recipe.
        overrides: `key=value` arguments that win over the file.
        out: directory of the run; wins over `out` in the config.
    """
    keep_freed_memory()
    asked = source if isinstance(source, Recipe) else recipes.read(source, overrides)
    directory = place(asked, out)
    stored = _stored_config(directory)
    if stored is not None and Run.open(directory).state["status"] == "done":
        _same(asked, stored, directory)
        say(f"{directory} is finished already; nothing to do")
        return
    _refuse_at_once(directory)
    work = _prepare(asked, directory, stored)
    if stored is None:
        parents = [resolve(asked.base)] if asked.base else []
        run = Run.create(directory, configs.dump(work.recipe), parents, asked.seed)
    else:
        _same(work.recipe, stored, directory)
        run = Run.open(directory)
    with run.lock():
        yield from _train(run, work)


def _refuse_at_once(place: Path) -> None:
    """Refuses, before data is read for minutes, a place where nothing can be written in the end."""
    if Run.exists(place):
        with Run.open(place).lock():
            return
    if place.is_dir():
        Run(place).refuse_to_overwrite()
    elif place.exists():
        raise UserError("a file is in the way of the run's directory", where=str(place), fix="choose another --out")


@dataclass(frozen=True)
class _Work:
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


def _train(run: Run, work: _Work) -> Iterator[Step]:
    config = work.recipe.train
    lm = LanguageModel(work.model, work.tokenizer, work.template)
    _check_data(run, work.facts)
    work.tokenizer.save(run.path / "tokenizer")
    found, _ = checkpoint.newest(run.path / "checkpoints")
    started, before = time.perf_counter(), run.state.get("seconds", 0.0) if found else 0.0
    run.set_status("running")
    with Metrics(run, after_step=found.step if found else 0) as metrics:
        if found is None:
            _sample(run, lm, work, step=0)
        last: Step | None = None
        steps = loop.train(work.stage, work.model, work.loader, config, run.path / "checkpoints", say)
        try:
            for step in steps:
                row: dict[str, Any] = {
                    "loss": step.loss, "learning_rate": step.lr, "grad_norm": step.grad_norm, "targets": step.targets,
                    "tokens_per_second": round(step.tokens_per_s, 1), "memory_bytes": step.memory_bytes,
                    "epoch": round(step.epoch, 4),
                }  # fmt: skip
                if work.held is not None and (step.number % config.eval_every == 0 or step.number == step.steps):
                    row["eval_loss"] = held_out_loss(
                        work.stage, work.model, work.held, config.eval_rows,
                        config.micro_batch_size or config.batch_size, config.precision,
                    )
                metrics.row(step.number, **row)
                if step.number % config.save_every == 0:
                    run.sync()
                last = step
                yield step
        finally:
            steps.close()  # saves, if this generator was left in the middle
            seconds = before + time.perf_counter() - started
            if last is not None:
                run.set_status("interrupted", step=last.number, seconds=seconds)
        lm.save(run.path / "model")
        _sample(run, lm, work, step=config.steps or 0)
    facts = {"seconds": seconds, "peak_memory_bytes": peak_memory_bytes(), "parameters": models.count_parameters(lm.model)}
    run.set_status("done", step=config.steps, **facts)
    page.write(run)


def _prepare(asked: Recipe, place: Path, stored: dict[str, Any] | None) -> _Work:
    """Data, tokenizer, model and the complete recipe; nothing of the run is written."""
    randomness.seed(asked.seed)
    stage_module = find.module("stages", asked.stage.kind)
    stage = stage_module.build(asked.stage)
    base = directory_of(asked.base) if asked.base else None
    data = dataset.prepare(asked.data, asked.seed)
    tokenizer = _tokenizer(asked, base, place, data)
    template = _template(asked, base, tokenizer)
    model = weights.load(base) if base else models.build(
        asked.model.model_copy(update={"vocab": asked.model.vocab or tokenizer.size})
    )
    if model.config.vocab < tokenizer.size:
        raise UserError(
            f"the model has {model.config.vocab} token embeddings, the tokenizer {tokenizer.size} tokens",
            fix="use the tokenizer that belongs to the model, or leave model.vocab out",
        )
    width = asked.data.context or min(model.config.context, 1 << 16)
    if model.max_length is not None and width > model.max_length:
        raise UserError(f"data.context is {width}, the model reads at most {model.max_length} tokens",
                        where=asked.base, fix=f"leave data.context out, or at most {model.max_length}")  # fmt: skip
    counts: Counter = Counter()
    loaders = []
    for name, records in (("train", data.train), ("held out", data.held)):
        shard = _shard(asked, name, records, stage, tokenizer, template, width, counts)
        loaders.append(Loader(shard, width, asked.train.batch_size, asked.seed, asked.data.pack))
    loader, held = loaders
    if not loader.rows:
        raise UserError("there is nothing to train on", where=", ".join(asked.data.files),
                        why="every record was dropped", fix="raise data.context or look at `lmcraft data`")  # fmt: skip
    work_device = device()
    train_config = asked.train.model_copy(update={
        "steps": asked.train.steps or max(1, round(asked.train.epochs * len(loader.rows) / asked.train.batch_size)),
        "lr": asked.train.lr or stage_module.LR,
        "precision": _precision(asked, stored, work_device),
    })  # fmt: skip
    complete = asked.model_copy(update={
        "train": train_config, "out": str(place), "model": None if asked.base else model.config,
        "data": asked.data.model_copy(update={"context": width}),
    })  # fmt: skip
    facts = {
        **data.report, **counts, **{f"rows: {k}": v for k, v in asdict(loader.fill).items()},
        "shard": loader.tokens.meta["key"], "preview": _preview(loader, tokenizer),
    }  # fmt: skip
    chat = template if stage_module.CHAT else None
    model.to(work_device)
    return _Work(complete, stage, model, tokenizer, chat, loader, held if held.rows else None, data.held, facts)


def _tokenizer(asked: Recipe, base: Path | None, place: Path, data: dataset.Dataset) -> Tokenizer:
    if asked.tokenizer.path:
        return Tokenizer.load(asked.tokenizer.path)
    if base:
        return Tokenizer.load(base)
    if (place / "tokenizer" / "tokenizer.json").is_file():  # a run that is resumed has made its own
        return Tokenizer.load(place / "tokenizer")
    say(f"training a tokenizer of {asked.tokenizer.vocab} tokens")
    return Tokenizer.train((text for r in data.train for _, text in parts(r)), asked.tokenizer.vocab)


def _template(asked: Recipe, base: Path | None, tokenizer: Tokenizer) -> ChatTemplate:
    if asked.template:
        return ChatTemplate.load(asked.template, tokenizer)
    if base and ChatTemplate.exists(base):
        return ChatTemplate.load(base, tokenizer)
    return ChatTemplate.load("chatml", tokenizer)


def _shard(
    asked: Recipe, name: str, records: list, stage: Any, tokenizer: Tokenizer, template: ChatTemplate, width: int,
    counts: Counter,
) -> tokens.Tokens:  # fmt: skip
    """The records as token shards, from the cache if the same were made before."""
    sources = [digest(Path(file)) for file in sorted({str(r.where.file) for r in records}) if Path(file).exists()]
    settings = {
        "name": name, "stage": asked.stage.model_dump(mode="json"), "tokenizer": tokenizer.digest, "width": width,
        "template": template.source, "data": asked.data.model_dump(mode="json", exclude={"context"}),  # it is `width`
        "seed": asked.seed,
        "sources": sources, "records": len(records),
    }  # fmt: skip
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
    return choose(asked.train.precision, where)


def _preview(loader: Loader, tokenizer: Tokenizer) -> list[dict[str, Any]]:
    """The first rows as the model will see them: each token's text and whether it is a target."""
    shown = []
    for row in range(min(2, len(loader.rows))):
        piece = loader.rows[row][0]
        first = int(loader.tokens.offsets[piece.document])
        ids = loader.tokens.ids[first + piece.start : first + piece.stop + 1].tolist()
        trained = loader.tokens.trained[first + piece.start : first + piece.stop + 1].tolist()
        pieces = [[tokenizer.decode([i], skip_special=False), t] for i, t in zip(ids[:400], trained[:400], strict=True)]
        shown.append({"where": loader.tokens.where(piece.document), "tokens": pieces})
    return shown


def _sample(run: Run, lm: LanguageModel, work: _Work, step: int) -> None:
    """Asks the model the same questions before and after training."""
    sample = work.recipe.sample
    settings = Sampling(temperature=sample.temperature, max_new_tokens=sample.max_new_tokens, seed=work.recipe.seed)
    prompts = list(sample.prompts) or _questions(work)
    if lm.template is not None:
        ids = [lm.prompt([{"role": "user", "content": prompt}]) for prompt in prompts]
    else:
        ids = [lm.ids(prompt) for prompt in prompts]
    longest = (lm.model.max_length or 1 << 30) - 1
    rows = [row for row in run.samples() if row["step"] != step]  # a run that was killed may have asked before
    for prompt, answer in zip(prompts, lm.engine.generate([i[:longest] for i in ids], settings), strict=True):
        rows.append({"step": step, "prompt": prompt, "text": answer.text, "finish_reason": answer.finish_reason})
    run.write_text("samples.jsonl", "".join(to_json(row) + "\n" for row in rows))


def _questions(work: _Work) -> list[str]:
    """Beginnings of held-out records: a user's first words, or the first words of a text."""
    records = (work.held_records or [])[:SAMPLES]
    if work.template is not None:
        return [next(m.content for m in r.messages if m.role == "user") for r in records if isinstance(r, Chat)]
    return [" ".join(parts(record)[0][1].split()[:8]) for record in records]


def _stored_config(place: Path) -> dict[str, Any] | None:
    if not Run.exists(place):
        return None
    return configs.parse(Run.open(place).config_text, str(place / "config.yaml")).value


def _same(recipe: Recipe, stored: dict[str, Any], place: Path) -> None:
    """Refuses to go on with a run under other settings; what was left open is taken from the run."""
    asked = configs.parse(configs.dump(recipe), "arguments").value
    differing = sorted(_differences(asked, stored))
    differing = [d for d in differing if not d.startswith("out:")]
    if differing:
        raise UserError(
            "there is a run here already, with other settings", where=str(place), why="; ".join(differing[:6]),
            fix="choose another --out, or give the same settings to go on with it",
        )  # fmt: skip


def _differences(asked: Any, stored: Any, name: str = "") -> Iterator[str]:
    if isinstance(asked, dict) and isinstance(stored, dict):
        for key in {**asked, **stored}:
            yield from _differences(asked.get(key), stored.get(key), f"{name}.{key}" if name else key)
    elif asked != stored and asked not in (None, "auto") and (name, asked) != ("model.vocab", 0):
        yield f"{name}: {stored!r} there, {asked!r} asked for"


def _check_data(run: Run, facts: dict[str, Any]) -> None:
    """Notes what is trained on, or refuses to go on with data that has changed."""
    file = run.path / "data.json"
    if file.exists() and json.loads(file.read_text())["shard"] != facts["shard"]:
        raise UserError(
            "the data has changed since this run began", where=str(run.path),
            why="going on would train on other rows than the log says",
            fix="put the old files back, or start anew with another --out",
        )  # fmt: skip
    run.write_json("data.json", facts)


def _free_name(stage: str) -> Path:
    number = 1
    while (Path("runs") / f"{stage}-{number}").exists():
        number += 1
    return Path("runs") / f"{stage}-{number}"
