"""What `lmcraft train` was asked to do: the schema of its config, put together from the stage and the model it names.

1. The keys are: stage, base, adapter, model, tokenizer, template, data, train, sample, out, seed. The Config of a
   stage, a model or an adapter stands in its own file; this file only joins them.
2. Short forms: `stage=sft`, `data=FILE`, `model=tiny` and `tokenizer=PATH` stand for `stage.kind`, `data.files`,
   `model.preset` and `tokenizer.path`, so `data.context=512` or `model.context=512` can be given beside them.
3. `adapter` is a list. One word or one mapping is a list of one; `qlora` is `quantize` and `lora`, of which each takes
   the settings that it knows; `none` is no adapter.

Proved by tests/unit/test_recipe.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Union

from pydantic import Field, create_model

from .core import config as configs
from .core import find
from .core.config import Document, Strict
from .core.errors import UserError
from .core.run import Run
from .data import dataset
from .train import loop, optim

DATA_FILES = (".txt", ".jsonl", ".csv", ".tsv", ".parquet", ".gz")
SHORT = {"stage": "kind", "data": "files", "model": "preset", "tokenizer": "path", "adapter": "kind"}
TOGETHER = {"qlora": ("quantize", "lora"), "none": ()}


class TokenizerConfig(Strict):
    """A tokenizer to use, or the size of one to train on the data."""

    path: str | None = Field(
        None, description="directory of a tokenizer; default: the base model's, or a new one"
    )
    vocab: int = Field(4096, gt=256, description="size of a new one")


class SampleConfig(Strict):
    """What the model is asked before and after training."""

    prompts: tuple[str, ...] = Field((), description="default: the beginnings of three held-out records")
    max_new_tokens: int = Field(60, gt=0)
    temperature: float = Field(0.8, ge=0)


class Recipe(Strict):
    """A training run; `stage` and `model` are the Configs of the files they name."""

    stage: Any
    base: str | None = Field(None, description="the run or model to start from; default: fresh weights")
    adapter: tuple[Any, ...] = Field((), description="what is trained beside the frozen base: lora, qlora, …")
    model: Any = None
    tokenizer: TokenizerConfig = TokenizerConfig()
    template: str | None = Field(
        None, description="chatml, plain, or a chat_template.jinja; default: the base's"
    )
    data: dataset.Config
    train: loop.Config = loop.Config()
    sample: SampleConfig = SampleConfig()
    out: str | None = Field(None, description="directory of the run; default: runs/<stage>-<number>")
    seed: int = Field(0, ge=0, lt=2**63, description="of everything random")


def read(source: str | Path | None, overrides: Sequence[str] = ()) -> Recipe:
    """A recipe from a YAML file or the name of a stage, and `key=value` arguments.

    Raises:
        UserError: listing every mistake with its file and line or argument.
    """
    if source is not None and str(source) in find.names("stages"):
        places = dict.fromkeys(((), ("stage",), ("stage", "kind")), "arguments")
        document = Document("arguments", {"stage": {"kind": str(source)}}, places)
    elif source is not None and not Path(source).exists() and not str(source).endswith((".yaml", ".yml")):
        find.module("stages", str(source))  # says which stages there are
        raise AssertionError("a name that is no stage was accepted")
    else:
        _refuse_other_things(source)
        document = configs.read(source)
    _write_out(document)
    for argument in overrides:
        configs.override(document, _long(argument, document))
        _write_out(document)
    _list_adapters(document)
    return _with_optimizer(configs.validate(_schema(document), document))


def _with_optimizer(found: Recipe) -> Recipe:
    """The optimizer that the stage has by default, where nothing else is asked for."""
    own = optim.for_stage(found.train.optim, find.module("stages", found.stage.kind))
    return found.model_copy(update={"train": found.train.model_copy(update={"optim": own})})


def _refuse_other_things(source: str | Path | None) -> None:
    """Data or a run in the place of the config: says what was probably meant."""
    path = Path(source or "")
    if source and path.suffix in DATA_FILES:
        raise UserError("this is a data file; the first argument is a YAML file or a stage", where=str(source),
                        fix=f"for example: lmcraft train pretrain data={source}")  # fmt: skip
    if source and Run.exists(path):
        raise UserError(
            "this is a run; the first argument is a YAML file or a stage", where=str(source),
            fix=f"lmcraft train {path / 'config.yaml'} goes on with it; base={source} starts from it",
        )  # fmt: skip


def _write_out(document: Document) -> None:
    """Writes the short forms of groups out."""
    for key, inner in SHORT.items():
        value = document.value.get(key)
        if isinstance(value, str) or (key == "data" and isinstance(value, list)):
            document.value[key] = {inner: value}
            document.places[(key, inner)] = document.where((key,))


def _long(argument: str, document: Document) -> str:
    """An argument with its short form written out, so that it changes one setting of its group and not all."""
    key, equals, value = argument.partition("=")
    begins = value.lstrip()[:1]
    short = key.strip() in SHORT and equals and begins != "{"
    if key.strip() == "adapter" and (begins == "[" or isinstance(document.value.get("adapter"), list)):
        return argument
    return f"{key.strip()}.{SHORT[key.strip()]}={value}" if short else argument


def _list_adapters(document: Document) -> None:
    """Makes a list of mappings of what stands under `adapter`, whose settings keep their places."""
    given = document.value.get("adapter")
    if given is None:
        document.value.pop("adapter", None)
        return
    alone = isinstance(given, dict)
    entries, places = [], dict(document.places)
    for number, entry in enumerate([given] if alone or not isinstance(given, list) else given):
        at: tuple = ("adapter",) if alone else ("adapter", number)
        settings = {"kind": entry} if isinstance(entry, str) else entry
        kind = settings.get("kind") if isinstance(settings, dict) else None
        if not isinstance(kind, str):
            raise UserError(
                "adapter.kind is missing", where=document.where(at),
                why=f"one of: {', '.join(find.names('adapt'))}, qlora",
                fix="for example adapter=lora",
            )  # fmt: skip
        for one, known in _apart(kind, settings):
            to = ("adapter", len(entries))
            places[to] = document.where(at)
            for key in known:
                inside = {p: place for p, place in document.places.items() if p[: len(at) + 1] == (*at, key)}
                places |= {(*to, *path[len(at) :]): place for path, place in inside.items()}
                places.setdefault((*to, key), document.where(at))
            entries.append({"kind": one, **{key: settings[key] for key in known if key != "kind"}})
            _named(
                document, "adapt", "adapter", one, places[(*to, "kind")] if "kind" in known else places[to]
            )
    document.value["adapter"] = entries
    document.places = places


def _apart(kind: str, settings: dict[str, Any]) -> list[tuple[str, list[str]]]:
    """The kinds that a word stands for, each with the settings that are its own; what none knows goes to the last."""
    kinds = TOGETHER.get(kind, (kind,))
    if len(kinds) < 2:
        return [(one, list(settings)) for one in kinds]
    fields = {one: set(find.module("adapt", one).Config.model_fields) for one in kinds}
    rest = [key for key in settings if key != "kind"]
    found = []
    for one in kinds[:-1]:
        own = [key for key in rest if key in fields[one] and key not in fields[kinds[-1]]]
        rest = [key for key in rest if key not in own]
        found.append((one, own))
    return [*found, (kinds[-1], rest)]


def _schema(document: Document) -> type[Recipe]:
    value = document.value
    stage = value.get("stage")
    if not isinstance(stage, dict) or not isinstance(stage.get("kind"), str):
        raise UserError(
            "stage.kind is missing", where=document.where(("stage",)),
            why=f"one of: {', '.join(find.names('stages'))}", fix="for example stage=pretrain",
        )  # fmt: skip
    module = _named(document, "stages", "stage", stage["kind"])
    fields: dict[str, Any] = {"stage": (module.Config, ...)}
    model = value.get("model")
    if value.get("base") is None:
        kind = model.get("kind", module.MODEL) if isinstance(model, dict) else module.MODEL
        schema = _named(document, "models", "model", str(kind)).Config
        fields["model"] = (schema, schema())
    elif model is not None:
        raise UserError(
            "model and base are both given", where=document.where(("model",)),
            why="the base model's own shape is used", fix="leave out `model`, or `base` to start from nothing",
        )  # fmt: skip
    kinds = dict.fromkeys(entry["kind"] for entry in value.get("adapter", []))
    if kinds:
        configs_of = tuple(find.module("adapt", kind).Config for kind in kinds)
        one = configs_of[0] if len(kinds) == 1 else Annotated[Union[configs_of], Field(discriminator="kind")]  # noqa: UP007
        fields["adapter"] = (tuple[one, ...], ())
    return create_model("Recipe", __base__=Recipe, **fields)


def _named(document: Document, folder: str, key: str, name: str, where: str | None = None) -> Any:
    try:
        return find.module(folder, name)
    except UserError as error:
        where = where or document.where((key, "kind"))
        raise UserError(error.what, where=where, why=error.why, fix=error.fix) from error
