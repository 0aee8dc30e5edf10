"""The Python API: `train`, `load`, `evaluate`; the only file that knows all parts.

    for step in train("sft.yaml", overrides=["train.lr=1e-4"]): ...
    lm = load("runs/sft-1");  lm.chat([{"role": "user", "content": "hello"}])
    evaluate("runs/sft-1", "perplexity", ["held-out.jsonl"])

Proved by tests/cli/test_life.py and tests/faults/test_kill.py.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from . import planning
from . import recipe as recipes
from .adapt.entries import kept_apart
from .core import config as configs
from .core import find
from .core.device import memory_now_bytes, peak_memory_bytes
from .core.errors import UserError
from .core.heap import keep_freed_memory
from .core.log import Metrics, say
from .core.run import Run
from .data import dataset
from .data.load import load as load_records
from .data.records import Chat, Text, parts
from .data.store import resolve
from .evals.evaluation import Result
from .generate.language_model import LanguageModel
from .generate.sampling import Sampling
from .models import model as models
from .recipe import Recipe
from .report import page
from .train import checkpoint, loop, parallel
from .train.heldout import held_out_loss
from .train.loop import Step
from .train.parallel import Ranks
from .work import Work, prepare

SAMPLES = 3
# Where a run lies, and how many processes compute it and how: nothing of what it learns.
HOW = ("out:", "train.parallel:", "train.sharded:", "train.patience_s:")


def load(
    path: str | Path, base: str | Path | None = None, adapters: Mapping[str, str | Path] | None = None
) -> LanguageModel:
    """The language model of a run, a model or adapter directory or a name in the store; see LanguageModel.load."""
    return LanguageModel.load(path, base, adapters)


def evaluate(
    path: str | Path,
    kind: str,
    files: Sequence[str] = (),
    overrides: Sequence[str] = (),
    limit: int | None = None,
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
        facts = {"metrics": result.metrics, "settings": result.settings, "files": list(files) or ["held out"],
                 "tables": result.tables}  # fmt: skip
        run.write_json(f"evals/{kind}.json", facts)
        run.write_rows(f"evals/{kind}.samples.jsonl", result.samples)
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
        return [_plain(record) if isinstance(record, Chat) else record for record in records]
    return records


def _plain(record: Chat) -> Text:
    return Text("\n".join(text for _, text in parts(record)), record.where)


def place(asked: Recipe, out: str | Path | None = None) -> Path:
    """The directory of a recipe's run; all processes of a distributed run ask for it together."""
    given = out or asked.out
    ranks = parallel.begin(asked.train.parallel, given is not None, asked.train.patience_s)
    return Path(given or ranks.from_first(lambda: str(_free_name(asked.stage.kind))))


def train(
    source: str | Path | Recipe, overrides: Sequence[str] = (), out: str | Path | None = None
) -> Iterator[Step]:
    """Trains as a config says; yields after every optimizer step. An unfinished run at `out` is resumed.

    Args:
        source: a YAML file, the name of a stage, or a Recipe.
        overrides: `key=value` arguments that win over the file.
        out: directory of the run; wins over `out` in the config.
    """
    importlib.import_module("torch._dynamo")  # torch would import it with the first optimizer, about 70 MB
    empty = memory_now_bytes()
    keep_freed_memory()
    asked = source if isinstance(source, Recipe) else recipes.read(source, overrides)
    directory = place(asked, out)
    ranks = parallel.begin(asked.train.parallel, True, asked.train.patience_s)
    with ranks.watching(), contextlib.ExitStack() as held:
        if ranks.from_first(lambda: _is_finished(asked, directory)):
            return
        with ranks.first_before_others():
            run, work = _prepare(asked, directory, ranks)
            if ranks.first:
                held.enter_context(run.lock())
                _check_data(run, work.facts)
                work.tokenizer.save(run.path / "tokenizer")
        yield from _train(run, work, ranks, empty) if ranks.first else _assist(run, work, ranks)


def _is_finished(asked: Recipe, directory: Path) -> bool:
    """Whether there is nothing to do; says so, and writes the report if that was prevented."""
    stored = _stored_config(directory)
    if stored is None or Run.open(directory).state["status"] != "done":
        return False
    _same(asked, stored, directory)
    say(f"{directory} is finished already; nothing to do")
    if not (directory / "report.html").exists():  # it was stopped between its last two files
        page.write(Run.open(directory))
    return True


def _prepare(asked: Recipe, directory: Path, ranks: Ranks) -> tuple[Run, Work]:
    """The run and its work; processes after the first find the run that it has made."""
    if ranks.first:
        _refuse_at_once(directory)
    stored = _stored_config(directory)
    if stored is None and not ranks.first:
        raise UserError(
            f"process {ranks.rank} does not see the run that the first process has made", where=str(directory),
            why="all processes read and write one directory", fix="choose an --out on a disk that all machines share",
        )  # fmt: skip
    work = prepare(asked, directory, stored, ranks)
    if stored is None:
        parents = [resolve(asked.base)] if asked.base else []
        return Run.create(directory, configs.dump(work.recipe), parents, asked.seed), work
    _same(work.recipe, stored, directory)
    run = Run.open(directory)
    if not ranks.first:
        _check_data(run, work.facts)
    return run, work


def _refuse_at_once(place: Path) -> None:
    """Refuses, before data is read for minutes, a place where nothing can be written in the end."""
    if Run.exists(place):
        with Run.open(place).lock():
            return
    if place.is_dir():
        Run(place).refuse_to_overwrite()
    elif place.exists():
        raise UserError(
            "a file is in the way of the run's directory", where=str(place), fix="choose another --out"
        )


def _assist(run: Run, work: Work, ranks: Ranks) -> Iterator[Step]:
    """What the processes after the first do: train, and nothing that is written."""
    config = work.recipe.train
    steps = loop.train(work.stage, work.model, work.loader, config, run.path / "checkpoints", say, ranks)
    with contextlib.closing(steps):  # saves with the others, if this generator was left in the middle
        for step in steps:
            _held_out_loss(work, step, ranks)
            yield step
    ranks.whole(work.model)


def _held_out_loss(work: Work, step: Step, ranks: Ranks) -> float | None:
    """The loss on held-out rows, if it is time for it."""
    config = work.recipe.train
    if work.held is None or (step.number % config.eval_every and step.number != step.steps):
        return None
    return held_out_loss(
        work.stage, work.model, work.held, config.eval_rows, config.batch_size, config.precision,
        config.micro_batch_size, ranks,
    )  # fmt: skip


def _train(run: Run, work: Work, ranks: Ranks, empty: int | None) -> Iterator[Step]:
    config = work.recipe.train
    lm = LanguageModel(work.model, work.tokenizer, work.template)
    found, _ = checkpoint.newest(run.path / "checkpoints")
    started, before = time.perf_counter(), run.state.get("seconds", 0.0) if found else 0.0
    run.set_status("running")
    with Metrics(run, after_step=found.step if found else 0) as metrics:
        if found is None:
            _sample(run, lm, work, step=0)
        last: Step | None = None
        steps = loop.train(work.stage, work.model, work.loader, config, run.path / "checkpoints", say, ranks)
        try:
            for step in steps:
                row: dict[str, Any] = {
                    "loss": step.loss, "learning_rate": step.lr, "grad_norm": step.grad_norm, "targets": step.targets,
                    "tokens_per_second": round(step.tokens_per_s, 1), "memory_bytes": step.memory_bytes,
                    "epoch": round(step.epoch, 4),
                }  # fmt: skip
                if config.precision == "fp16":
                    row |= {"loss_scale": step.loss_scale, "skipped": int(step.skipped)}
                    row["grad_norm"] = None if step.skipped else step.grad_norm
                row |= getattr(work.loader, "facts", {})
                if hasattr(work.stage, "told"):
                    row |= work.stage.told()
                held_loss = _held_out_loss(work, step, ranks)
                if held_loss is not None:
                    row["eval_loss"] = held_loss
                metrics.row(step.number, **row)
                if step.number % config.save_every == 0:
                    run.sync()
                last = step
                yield step
        finally:
            run.sync()
            steps.close()  # saves, if this generator was left in the middle
            seconds = before + time.perf_counter() - started
            if last is not None:
                run.set_status("interrupted", step=last.number, seconds=seconds)
        trained = ranks.whole(work.model) or work.model
        peak, predicted = peak_memory_bytes(), _predicted(work, trained, ranks)
        if hasattr(work.stage, "finished"):
            trained = work.stage.finished(trained, work.loader)
        lm = LanguageModel(trained, work.tokenizer, work.template)
        lm.save(run.path / ("adapter" if kept_apart(work.model) else "model"))
        _sample(run, lm, work, step=config.steps or 0)
    facts = {
        "seconds": seconds,
        "peak_memory_bytes": peak,
        "memory_before_bytes": empty,
        "parameters": models.count_parameters(lm.model),
        **({"processes": ranks.world, "parallel": ranks.kind} if ranks.together else {}),
        "trained_parameters": sum(p.numel() for p in lm.model.parameters() if p.requires_grad),
    }
    run.set_status("done", step=config.steps, predicted_memory_bytes=predicted, **facts)
    page.write(run)


def _predicted(work: Work, model: nn.Module, ranks: Ranks) -> int | None:
    """What `lmcraft plan` says that this training needs, above what the process had before; None if it cannot say.

    Args:
        model: the whole of it, where work has a share.
    """
    try:
        return planning.of_run(work.stage, model, work.loader, work.recipe.train, ranks.world).peak
    except Exception as error:  # a run that has succeeded must not fail for want of a comparison
        say(f"no plan to compare the memory with: {error}")
        return None


def _sample(run: Run, lm: LanguageModel, work: Work, step: int) -> None:
    """Asks the model the same questions before and after training; an encoder cannot be asked."""
    if not lm.model.generates:
        return
    sample = work.recipe.sample
    settings = Sampling(
        temperature=sample.temperature, max_new_tokens=sample.max_new_tokens, seed=work.recipe.seed
    )
    prompts = list(sample.prompts) or _questions(work)
    if lm.template is not None:
        ids = [lm.prompt([{"role": "user", "content": prompt}]) for prompt in prompts]
    else:
        ids = [lm.ids(prompt) for prompt in prompts]
    longest = (lm.model.max_length or 1 << 30) - 1
    rows = [
        row for row in run.samples() if row["step"] != step
    ]  # a run that was killed may have asked before
    for prompt, answer in zip(prompts, lm.complete([i[:longest] for i in ids], settings), strict=True):
        rows.append(
            {"step": step, "prompt": prompt, "text": answer.text, "finish_reason": answer.finish_reason}
        )
    run.write_rows("samples.jsonl", rows)


def _questions(work: Work) -> list[str]:
    """Beginnings of held-out records: a user's first words, or the first words of a text."""
    records = (work.held_records or [])[:SAMPLES]
    if work.template is not None:
        return [text for r in records if (text := next((t for role, t in parts(r) if role == "user"), None))]
    if work.model.reads_source:
        return [record.source for record in records]
    return [" ".join(parts(record)[0][1].split()[:8]) for record in records]


def _stored_config(place: Path) -> dict[str, Any] | None:
    if not Run.exists(place):
        return None
    return configs.parse(Run.open(place).config_text, str(place / "config.yaml")).value


def _same(recipe: Recipe, stored: dict[str, Any], place: Path) -> None:
    """Refuses to go on with a run under other settings; what was left open is taken from the run."""
    asked = configs.parse(configs.dump(recipe), "arguments").value
    differing = sorted(_differences(asked, stored))
    differing = [d for d in differing if not d.startswith(HOW)]
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
    before = json.loads(file.read_text()) if file.exists() else facts
    if before.get("base_fingerprint", "") != facts["base_fingerprint"]:
        raise UserError(
            "the base, or the reference, has changed since this run began", where=str(run.path),
            why="it is what the policy is compared with",
            fix="put the old one back, or start anew with another --out",
        )  # fmt: skip
    if before["shard"] != facts["shard"]:
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
