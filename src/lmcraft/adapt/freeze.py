"""Trains only a part of the model's own weights: its last layers, its head, or whatever a pattern names.

1. `layers` counts from the output: what lies near it is most particular to a task (Howard and Ruder, arXiv 1801.06146).
   Of a model that reads a source these are layers of the decoder; a pattern such as `encoder.*` reaches the others.
2. `patterns` fit names of tensors, or of modules with all that is in them: `*.bias` is BitFit (arXiv 2106.10199),
   `*norm*` trains the norms, `blocks.0` the first layer.
3. A tied head is the embedding: to train one is to train the other, and we say so.

Legend: none; nothing is computed here.
Proved by tests/unit/adapt/test_freeze.py and tests/contract/test_adapters.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import Any, Literal

from pydantic import Field
from torch import nn

from ..core.config import Strict
from ..core.errors import UserError
from ..core.find import suggestion
from ..core.log import say
from .adapter import ALIASES
from .quantized import Quantized

DEFAULT = 2  # layers


class Config(Strict):
    """Which of the model's own weights are trained."""

    kind: Literal["freeze"] = "freeze"
    layers: int | None = Field(
        None, ge=0, description="train the last n layers; default: 2, or none where something else is named"
    )
    norm: bool = Field(False, description="train the norm behind the last layer")
    head: bool = Field(False, description="train the head; a tied one is the embedding")
    embedding: bool = Field(False, description="train the token embeddings")
    patterns: tuple[str, ...] = Field((), description="train tensors of these names, with * for anything")


def apply(model: nn.Module, config: Config, name: str, tokenizer: Any = None) -> nn.Module:
    """The same model, in which the weights asked for are trained; the others stay as they are.

    Raises:
        UserError: nothing is asked for, a pattern fits nothing, the model has fewer layers or no such part, or what
            should be trained is quantized.
    """
    chosen: dict[str, nn.Parameter] = {}
    for path in _paths(model, config):
        chosen |= _under(model, path)
    for pattern in config.patterns:
        chosen |= _fitting(model, pattern)
    if not chosen:
        raise UserError(
            "nothing of the model would be trained", where=f"adapter {name}",
            fix="ask for layers, head, embedding, norm or patterns",
        )  # fmt: skip
    for parameter in chosen.values():
        parameter.requires_grad_(True)
    trained = sum(parameter.numel() for parameter in {id(p): p for p in chosen.values()}.values())
    whole = sum(parameter.numel() for parameter in model.parameters())
    say(f"{name}: {trained:,} of {whole:,} parameters of the model are trained{_tie(model, chosen)}")
    return model


def _paths(model: nn.Module, config: Config) -> Iterator[str]:
    """The modules that the switches of the config name."""
    stack, last = layers(model), config.layers
    if last is None:
        last = 0 if config.norm or config.head or config.embedding or config.patterns else DEFAULT
    if last > len(stack):
        raise UserError(
            f"there are no {last} layers to train", where=f"layers={last}",
            why=f"the model has {len(stack)}", fix="ask for fewer, or train without an adapter",
        )  # fmt: skip
    for paths in stack[len(stack) - last :]:
        yield from paths
    if config.norm:
        yield _only(model, _last_norm(model), "norm behind its last layer", "norm")
    if config.head:
        yield _only(model, "output", "head", "head")
    if config.embedding:
        yield _only(model, f"{_body(model)}embedding", "embedding", "embedding")


def layers(model: nn.Module) -> list[list[str]]:
    """For each layer on the way to the output, in order, the paths of its modules."""
    body = _body(model)
    of_body = model.get_submodule(body.rstrip(".")) if body else model
    for path in ("decoder.blocks", "blocks"):
        if body + path in dict(model.named_modules()):
            return [[f"{body}{path}.{i}"] for i in range(len(of_body.get_submodule(path)))]
    found = [[f"{body}attentive"]] if getattr(of_body, "attentive", None) is not None else []
    norms = hasattr(of_body, "norms")
    for i in range(len(of_body.layers)):
        found.append([f"{body}layers.{i}", *([f"{body}norms.{i}"] if norms else [])])
    return found


def _body(model: nn.Module) -> str:
    """Where the layers are: in a model with a head of its own, below `body.`."""
    return "body." if hasattr(model, "body") else ""


def _last_norm(model: nn.Module) -> str:
    modules, body = dict(model.named_modules()), _body(model)
    norms = f"{body}norms.{len(layers(model))}"
    return next((path for path in (f"{body}decoder.norm", f"{body}norm", norms) if path in modules), "")


def _only(model: nn.Module, path: str, what: str, option: str) -> str:
    """The path, where the model has something to train there."""
    if not path or path not in dict(model.named_modules()) or not _under(model, path):
        raise UserError(
            f"this model has no {what} to train", where=f"{option}=true",
            why=f"it is of kind {model.config.kind}", fix=f"leave {option} out",
        )  # fmt: skip
    return path


def _own(model: nn.Module) -> dict[str, nn.Parameter]:
    """The base's tensors under all their names; not those of other adapters."""
    named = model.named_parameters(remove_duplicate=False)
    return {path: parameter for path, parameter in named if ".beside." not in f".{path}"}


def _under(model: nn.Module, path: str) -> dict[str, nn.Parameter]:
    for inside, module in model.get_submodule(path).named_modules():
        if isinstance(module, Quantized):
            raise _frozen_for_good(f"{path}.{inside}".strip("."))
    return {name: parameter for name, parameter in _own(model).items() if name.startswith(f"{path}.")}


def _fitting(model: nn.Module, pattern: str) -> dict[str, nn.Parameter]:
    """The tensors whose name, or a module around them, fits a pattern."""
    public, own = {ours: name for name, ours in ALIASES.items()}, _own(model)

    def fits(path: str) -> bool:
        words = path.split(".")
        heads = (".".join(words[: i + 1]) for i in range(len(words)))
        return any(
            fnmatchcase(head, pattern) or fnmatchcase(public.get(head, head), pattern) for head in heads
        )

    found = {path: parameter for path, parameter in own.items() if fits(path)}
    if found:
        return found
    for path, module in model.named_modules():
        if isinstance(module, Quantized) and fits(f"{path}.weight"):
            raise _frozen_for_good(path)
    raise UserError(
        f"no weights of the model fit {pattern!r}{suggestion(pattern, list(own))}", where=f"patterns={pattern}",
        why=f"it has: {', '.join(_shapes(own))}", fix="use * for any part of a name, as in *.attn.q.weight",
    )  # fmt: skip


def _frozen_for_good(path: str) -> UserError:
    return UserError(
        f"{path} cannot be trained", why="it is quantized: its weights are whole numbers, which have no gradient",
        fix="take adapter=lora over the quantized base, or quantize other modules",
    )  # fmt: skip


def _shapes(own: dict[str, nn.Parameter]) -> list[str]:
    """Names with * in the place of a layer's number, each once."""
    return list(dict.fromkeys(".".join("*" if w.isdecimal() else w for w in path.split(".")) for path in own))


def _tie(model: nn.Module, chosen: dict[str, nn.Parameter]) -> str:
    names: dict[int, list[str]] = {}
    for path, parameter in _own(model).items():
        names.setdefault(id(parameter), []).append(path)
    tied = next((names[id(p)] for p in chosen.values() if len(names[id(p)]) > 1), None)
    return f" ({' and '.join(tied)} are one)" if tied else ""
