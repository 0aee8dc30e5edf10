"""What an adapter is: it changes a finished model from outside, by parts beside its modules or by freezing them.

    output = module(x);   output = part(x, output, module)   for every part that stands beside the module

1. A part is a submodule of the module that it stands beside, under `beside`, and acts through a forward hook. So the
   base keeps its classes, its tensor names and its tied weights, and saving, exporting and sharding it need no care.
2. Several adapters may stand beside one module, each under its name; they act in the order in which they came.
3. Every part has a strength: 1 as trained, 0 as if it were not there, others where the part is linear in it.
4. `disabled(model)` is the base model: the reference policy of PPO and DPO without a second copy of the weights. It is
   refused where the base's own weights are trained, for then nothing of the base is left.
5. `merge(model)` writes parts into the weights: `Part.merged` gives the new matrix, where there is one. A quantized
   module becomes a linear one, since the merged weight belongs to the numbers that the part was trained beside.
6. A module with `dense()` keeps its weight in another form (quantized): that of a linear module [out, in], or a table.

An adapter's file has `Config`, and `apply(model, config, name, tokenizer) → model`; it may have `LR`, a peak learning
rate that suits it.

Proved by tests/contract/test_adapters.py.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from ..core.errors import UserError
from ..core.find import suggestion

ALIASES = {"head": "output"}


class Part(nn.Module):
    """A trained part of an adapter; `forward(x, output, module)` gives the output that the module has from now on."""

    strength: float = 1.0

    def merged(self, weight: Tensor, module: nn.Module) -> Tensor:
        """The matrix [out, in] with which the module alone does what it does with this part beside it.

        Args:
            weight: the matrix so far: the module's own, with the parts before this one merged into it.

        Raises:
            UserError: no matrix does that.
        """
        kind = type(self).__module__.rpartition(".")[2]
        raise UserError(
            f"an adapter of kind {kind} cannot be merged", why="what it does cannot be written into the weights",
            fix="use the run as it is: its model and its adapter are loaded together",
        )  # fmt: skip


def put_beside(module: nn.Module, name: str, part: Part) -> None:
    """Lets a part act on what a module puts out.

    Raises:
        UserError: an adapter of this name stands there already.
    """
    if not hasattr(module, "beside"):
        module.beside = nn.ModuleDict()
        module.beside_hook = module.register_forward_hook(_act)
    if name in module.beside:
        raise UserError(
            f"there is an adapter {name!r} beside this module already",
            why="each adapter of a model needs a name of its own", fix="give the second one another name",
        )  # fmt: skip
    module.beside[name] = part


def _act(module: nn.Module, args: tuple, output: Tensor) -> Tensor:
    for part in module.beside.values():
        if part.strength:
            output = part(args[0], output, module)
    return output


def parts(model: nn.Module, name: str | None = None) -> dict[str, Part]:
    """The parts in a model by their paths; of one adapter, or of all."""
    found = {path: module for path, module in model.named_modules() if isinstance(module, Part)}
    return {path: part for path, part in found.items() if name in (None, name_of(path))}


def name_of(path: str) -> str:
    """The adapter's name in the path of one of its parts."""
    return path.rsplit(".", 1)[-1]


def names(model: nn.Module) -> list[str]:
    """The adapters of a model, in the order in which they came."""
    return list(dict.fromkeys(name_of(path) for path in parts(model)))


def set_strength(model: nn.Module, strength: float, name: str | None = None) -> None:
    """Turns the dial of one adapter, or of all; 0 switches it off.

    Raises:
        UserError: there is no adapter of this name.
    """
    chosen = parts(model, name)
    if not chosen:
        known = names(model)
        raise UserError(
            f"the model has no adapter {name!r}" + suggestion(name or "", known),
            why=f"it has: {', '.join(known) or 'none'}",
        )
    for part in chosen.values():
        part.strength = strength


@contextlib.contextmanager
def disabled(model: nn.Module, beside: Sequence[str] = ()) -> Iterator[None]:
    """Within it, the model is its base.

    Args:
        beside: names of trained modules that the base does not have and never calls, such as a critic.

    Raises:
        UserError: the base's own weights are trained.
    """
    kept = parts(model)
    own = {id(p) for part in kept.values() for p in part.parameters()}
    trained = [name for name, p in model.named_parameters() if p.requires_grad and id(p) not in own]
    changed = [name for name in trained if name.partition(".")[0] not in beside]
    if changed:
        raise UserError(
            "the base cannot be had from this model without a second copy",
            why=f"its own weights are trained: {', '.join(changed[:3])}" + (" …" if changed[3:] else ""),
        )
    before = {path: part.strength for path, part in kept.items()}
    for part in kept.values():
        part.strength = 0.0
    try:
        yield
    finally:
        for path, part in kept.items():
            part.strength = before[path]


def freeze(model: nn.Module) -> None:
    """Nothing of the model is trained any more."""
    for parameter in model.parameters():
        parameter.requires_grad_(False)


def targets(
    model: nn.Module, asked: Sequence[str], kinds: tuple[type[nn.Module], ...] = (nn.Linear, nn.Embedding)
) -> dict[str, nn.Module]:
    """The modules whose paths end in one of the names asked for, such as `attn.q`, `mlp.up`, `embedding`, `head`.

    Args:
        kinds: only modules of these classes can be asked for; a quantized one counts as nn.Linear.

    Raises:
        UserError: a name fits nothing.
    """
    there = {path: module for path, module in model.named_modules() if _is_one_of(path, module, kinds)}
    found: dict[str, nn.Module] = {}
    for name in asked:
        wanted = ALIASES.get(name, name)
        fitting = {path: m for path, m in there.items() if path == wanted or path.endswith(f".{wanted}")}
        if not fitting:
            valid = short_names(model, kinds)
            raise UserError(
                f"the model has no module {name!r}{suggestion(name, valid)}", where=f"targets={name}",
                why=f"it has: {', '.join(valid)}",
            )  # fmt: skip
        found |= fitting
    return {path: found[path] for path in there if path in found}


def short_names(model: nn.Module, kinds: tuple[type[nn.Module], ...]) -> list[str]:
    """What `targets` may be asked for: the last words of paths, without the numbers of layers."""
    back = {ours: public for public, ours in ALIASES.items()}
    found = []
    for path, module in model.named_modules():
        if _is_one_of(path, module, kinds):
            words = path.split(".")
            last = max((i for i, word in enumerate(words) if word.isdecimal()), default=-1)
            short = ".".join(words[last + 1 :])
            found.append(back.get(short, short))
    return list(dict.fromkeys(found))


def _is_one_of(path: str, module: nn.Module, kinds: tuple[type[nn.Module], ...]) -> bool:
    """Whether a module of the base, not of a part beside it, is of one of these classes."""
    stands_for = nn.Embedding if looks_up(module) else nn.Linear
    right = isinstance(module, kinds) or (stands_for in kinds and is_quantized(module))
    return right and ".beside." not in f".{path}."


def is_quantized(module: nn.Module) -> bool:
    """Whether a linear module or a table keeps its weight in another form."""
    right = hasattr(module, "in_features") or looks_up(module)
    return right and callable(getattr(type(module), "dense", None))


def looks_up(module: nn.Module) -> bool:
    """Whether a module is a table of vectors, quantized or not."""
    return hasattr(module, "num_embeddings")


def matrix(module: nn.Module) -> Tensor:
    """The weight [out, in] of a linear module, quantized or not; of a table too, which reads one-hot vectors."""
    weight = module.dense() if is_quantized(module) else module.weight
    return weight.t() if looks_up(module) else weight


@torch.no_grad()
def merge(model: nn.Module) -> nn.Module:
    """The model with its parts written into the weights, as strong as they are now; nothing stands beside it any more.

    What was tied and is no longer equal is untied, in the config too.

    Raises:
        UserError: a part cannot be written into a weight; the model is as it was.
    """
    weights = {path: _merged(module) for path, module in model.named_modules() if hasattr(module, "beside")}
    tied, made = _shared(model), {}
    for path, module in list(model.named_modules()):
        if path in weights or is_quantized(module):
            _replace(model, path, module, weights.get(path), made)
    if _shared(model) != tied and getattr(model.config, "tied", False):
        model.config = model.config.model_copy(update={"tied": False})
    return model


def _merged(module: nn.Module) -> Tensor | None:
    """The merged matrix of a module; None if nothing has to be merged."""
    acting = [part for part in module.beside.values() if part.strength]
    for part in acting:
        if type(part).merged is Part.merged:
            part.merged(torch.empty(0), module)  # refuses, also where the module has no matrix
    weight = matrix(module) if acting else None
    for part in acting:
        weight = part.merged(weight, module)
    return weight


def _shared(model: nn.Module) -> set[tuple[str, ...]]:
    """Modules whose weights are one and the same."""
    names_of: dict[int, list[str]] = {}
    for path, module in model.named_modules():
        weight = getattr(module, "packed", None) if is_quantized(module) else getattr(module, "weight", None)
        if weight is not None:
            names_of.setdefault(id(weight), []).append(path)
    return {tuple(same) for same in names_of.values() if len(same) > 1}


def _replace(
    model: nn.Module, path: str, module: nn.Module, weight: Tensor | None, made: dict[int, nn.Parameter]
) -> None:
    """Gives a module its merged weight [out, in]; a quantized one becomes dense.

    Args:
        made: the dense weights of quantized modules that had nothing to merge, for those that share them.
    """
    if weight is not None:
        turned = weight.t() if looks_up(module) else weight
        new = nn.Parameter(turned.detach().contiguous(), requires_grad=False)
    elif is_quantized(module):
        own = id(getattr(module, "packed", module))
        new = made[own] if own in made else made.setdefault(own, nn.Parameter(module.dense(), False))
    else:
        new = module.weight
    if is_quantized(module):
        if looks_up(module):
            dense: nn.Module = nn.Embedding(*new.shape, device="meta")
        else:
            dense = nn.Linear(new.shape[1], new.shape[0], bias=False, device="meta")
            dense.bias = module.bias
        dense.weight = new
        model.set_submodule(path, dense.train(module.training))
        return
    module.weight = new
    module.beside_hook.remove()
    del module.beside, module.beside_hook
