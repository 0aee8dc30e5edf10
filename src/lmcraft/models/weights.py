"""Models on disk in the public layout: config.json and safetensors, for our models and the public families.

1. A model that a public family can express is saved under that family's names, so other programs load it as it is; any
   other model is saved under our own names with model_type `lmcraft`.
2. Loading explains every tensor before it reads one: what is missing, left over or of the wrong shape is an error that
   names it. `examine` tells the same without reading.
3. Tensors go from the file into the parameters, and back, in pieces of a few MiB: peak memory is the model's size.
4. Only safetensors is read, whole or in shards; nothing in a model directory is executed, nothing outside it is opened.
5. Numbers are float32 in memory whatever they are on disk (config.json's `dtype` says what that is, and adds nothing).

Proved by tests/parity/test_decoder.py, tests/unit/models/test_weights.py and tests/unit/models/test_weights_memory.py.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..core import find
from ..core.disk import read_json, write_json, writing
from ..core.errors import UserError
from . import families, safetensors_file
from .families import Family, Link
from .model import build
from .safetensors_file import NAMES, PIECE_BYTES, Stored, ToWrite

NATIVE = "lmcraft"
INDEX = "model.safetensors.index.json"
SHARD_BYTES = 5_000_000_000
MAX_LAYERS = 10_000
_SHARD_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,200}\.safetensors")
_OURS_SHARD = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors")


@dataclass(frozen=True)
class Report:
    """What became of every stored tensor."""

    model_type: str
    matched: int
    parameters: int
    formats: dict[str, int]
    copies: tuple[str, ...] = ()
    left_out: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        formats = ", ".join(f"{count} {name}" for name, count in sorted(self.formats.items()))
        parts = [f"{self.model_type}: {self.matched} tensors matched ({formats}), none missing"]
        if self.copies:
            parts.append(f"{len(self.copies)} tied and stored twice")
        for why, count in Counter(self.left_out.values()).items():
            parts.append(f"{count} left out ({why})")
        return "; ".join(parts)


# -- saving ------------------------------------------------------------------------------------------------------------


def save(model: nn.Module, directory: Path, shard_bytes: int = SHARD_BYTES) -> None:
    """Writes config.json and the weights, in several files with an index where they are larger than `shard_bytes`."""
    config = model.config
    family = families.of(config)
    if family is None:
        public: dict[str, Any] = {"model_type": NATIVE, "lmcraft": config.model_dump(mode="json")}
    else:
        public = family.to_public(config)
    weights = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    table = _native_links(model) if family is None else list(family.links(config))
    shards = _shards([_to_write(link, weights) for link in table], shard_bytes)
    with writing(directory):
        directory.mkdir(parents=True, exist_ok=True)
    names = ["model.safetensors"]
    if len(shards) > 1:
        names = [f"model-{i:05}-of-{len(shards):05}.safetensors" for i in range(1, len(shards) + 1)]
    for name, shard in zip(names, shards, strict=True):
        safetensors_file.write(directory / name, shard, {"format": "pt"})
    if len(shards) > 1:
        total = sum(tensor.bytes for shard in shards for tensor in shard)
        weight_map = {t.name: name for name, shard in zip(names, shards, strict=True) for t in shard}
        write_json(directory / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})
    else:
        (directory / INDEX).unlink(missing_ok=True)
    for name, content in (family.files(config) if hasattr(family, "files") else {}).items():
        (directory / name).parent.mkdir(exist_ok=True)
        write_json(directory / name, content)
    write_json(directory / "config.json", public)
    for file in directory.glob("model*.safetensors"):
        if _OURS_SHARD.fullmatch(file.name) and file.name not in names:
            file.unlink()


def _shards(tensors: list[ToWrite], limit: int) -> list[list[ToWrite]]:
    shards: list[list[ToWrite]] = [[]]
    size = 0
    for tensor in tensors:
        if shards[-1] and size + tensor.bytes > limit:
            shards.append([])
            size = 0
        shards[-1].append(tensor)
        size += tensor.bytes
    return shards


def _to_write(link: Link, weights: dict[str, Tensor]) -> ToWrite:
    parts = [weights[name] for name in link.ours]
    return ToWrite(link.public, parts[0].dtype, _shape(link, parts), partial(_pieces, parts, link))


def _pieces(parts: list[Tensor], link: Link) -> Iterator[Tensor]:
    """The public tensor's numbers in order."""
    if link.lead:
        yield parts[0].new_zeros(link.lead, *parts[0].shape[1:])
    if link.transposed:
        step = max(1, PIECE_BYTES // (sum(len(part) for part in parts) * parts[0].element_size()))
        for start in range(0, parts[0].shape[1], step):
            yield torch.cat([part[:, start : start + step].t() for part in parts], dim=1)
        return
    for part in parts:
        step = max(1, PIECE_BYTES // max(1, part[0].numel() * part.element_size()))
        yield from part.split(step)


def _shape(link: Link, parts: list[Tensor]) -> tuple[int, ...]:
    joined = (link.lead + sum(len(part) for part in parts), *parts[0].shape[1:])
    joined = (1, *joined) if link.as_row else joined
    return joined[::-1] if link.transposed else joined


def _native_links(model: nn.Module) -> list[Link]:
    """Our own names; tensors that are one and the same are stored under the first."""
    names: dict[int, list[str]] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        names.setdefault(id(tensor), []).append(name)
    return [Link(first, (first,), copies=tuple(others)) for first, *others in names.values()]


# -- loading -----------------------------------------------------------------------------------------------------------


def load(directory: Path) -> nn.Module:
    """The model in a directory, in float32 and evaluation mode.

    Raises:
        UserError: not a model directory, an unknown type, or tensors that do not fit the config.
    """
    return load_reported(directory)[0]


def load_reported(directory: Path) -> tuple[nn.Module, Report]:
    """`load`, and what became of every stored tensor."""
    model, matches, report = _matched(directory)
    materialise(model)
    weights = model.state_dict(keep_vars=True)
    with torch.no_grad():
        for link, (first, *again) in matches:
            targets = [weights[name] for name in link.ours]
            fill(first, targets, link)
            for copy in again:
                _same(copy, targets, link, first)
    return model.eval(), report


def examine(directory: Path) -> Report:
    """What loading would report, from the headers of the files alone."""
    return _matched(directory)[2]


def unfilled(directory: Path) -> nn.Module:
    """The model that a directory's config.json describes, without memory; no weights need to be there."""
    config = _config(directory)[2]
    return skeleton(config, MAX_LAYERS, str(directory / "config.json"))


def _matched(directory: Path) -> tuple[nn.Module, list[tuple[Link, list[Stored]]], Report]:
    """The model without memory, and for each of its links the stored tensors that hold it."""
    model_type, family, config = _config(directory)
    found = _stored(directory)
    model = skeleton(config, len(found), str(directory / "config.json"))
    table = _native_links(model) if family is None else list(family.links(config))
    stored, left_out = _renamed(found, table, family)
    weights = model.state_dict(keep_vars=True)
    matches, problems = [], {"missing": [], "of another shape": [], "of another number format": []}
    copies: list[str] = []
    for link in table:
        found = [stored.pop(name) for name in (link.public, *link.copies) if name in stored]
        if not found:
            problems["missing"].append(link.public)
        for tensor in found:
            if tensor.shape != _shape(link, [weights[name] for name in link.ours]):
                problems["of another shape"].append(f"{tensor.name} {list(tensor.shape)}")
            elif not tensor.dtype.is_floating_point:
                problems["of another number format"].append(f"{tensor.name} {NAMES[tensor.dtype]}")
        copies += [tensor.name for tensor in found[1:]]
        matches.append((link, found))
    problems["left over"] = [tensor.name for tensor in stored.values()]
    _refuse(problems, directory)
    formats = Counter(NAMES[found[0].dtype] for _, found in matches)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    report = Report(model_type, len(matches), parameters, dict(formats), tuple(copies), left_out)
    return model, matches, report


def _config(directory: Path) -> tuple[str, Family | None, Any]:
    """Model type, family (None for our own format) and our Config of a directory."""
    file = directory / "config.json"
    if not file.is_file():
        raise UserError("this is not a model directory", where=str(directory), why="it has no config.json")
    public = read_json(file)
    try:
        _bounded(public, file)
        model_type = public.get("model_type")
        if model_type == NATIVE:
            kind = public["lmcraft"]["kind"]
            return f"{NATIVE} {kind}", None, find.module("models", kind).Config(**public["lmcraft"])
        beside = {
            name: read_json(directory / name)
            for name in families.beside(model_type)
            if (directory / name).is_file()
        }
        return model_type, *families.read({**public, **beside}, str(file))
    except (KeyError, TypeError, AttributeError, ValueError, ArithmeticError) as error:
        why = " ".join(str(error).split()).partition(" For further information")[0]  # pydantic's
        raise UserError("config.json lacks or garbles a setting", where=str(file), why=why) from error


def _bounded(public: dict[str, Any], file: Path) -> None:
    """A number of layers that would keep a machine busy is no number of layers."""
    for key, value in public.items():
        if isinstance(value, dict):
            _bounded(value, file)
        elif "layer" in key and isinstance(value, int | float) and value > MAX_LAYERS:
            raise UserError(
                f"{key} = {value} is too large", where=str(file), why=f"at most {MAX_LAYERS} are read"
            )


def _renamed(
    stored: dict[str, Stored], table: list[Link], family: Family | None
) -> tuple[dict[str, Stored], dict[str, str]]:
    """Stored tensors under the names of the table, and those that are no weights, with the reason."""
    expected = {name for link in table for name in (link.public, *link.copies)}
    kept: dict[str, Stored] = {}
    left_out: dict[str, str] = {}
    for name, tensor in stored.items():
        reasons = (
            [why for pattern, why in family.LEFT_OUT.items() if re.fullmatch(pattern, name)] if family else []
        )
        if reasons and name not in expected:
            left_out[name] = reasons[0]
            continue
        options = [name]
        if family is not None:
            options += [
                new + name[len(old) :] for old, new in family.PREFIXES.items() if name.startswith(old)
            ]
        fitting = [option for option in options if option in expected and option not in kept]
        kept[fitting[0] if fitting else name] = tensor
    return kept, left_out


def _refuse(problems: dict[str, list[str]], directory: Path) -> None:
    for what, names in problems.items():
        if names:
            shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
            raise UserError(
                f"{len(names)} tensors are {what}: {shown}", where=str(directory),
                why="the weights do not fit config.json", fix="use the config.json that belongs to these weights",
            )  # fmt: skip


def _stored(directory: Path) -> dict[str, Stored]:
    """Every tensor in the directory's safetensors file or shards."""
    stored: dict[str, Stored] = {}
    for name in _files(directory):
        file = directory / name
        if not file.is_file():
            raise UserError(
                f"{name} is missing", where=str(directory), why="only safetensors weights are read"
            )
        for key, tensor in safetensors_file.read(file).items():
            if key in stored:
                raise UserError(
                    f"{key!r} is stored twice", where=str(file), why=f"also in {stored[key].file.name}"
                )
            stored[key] = tensor
    return stored


def _files(directory: Path) -> list[str]:
    index = directory / INDEX
    if not index.is_file():
        return ["model.safetensors"]
    try:
        names = sorted(set(read_json(index)["weight_map"].values()))
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError("the list of weight files is damaged", where=str(index), why=f"{error!r}") from error
    for name in names:
        if not isinstance(name, str) or not _SHARD_NAME.fullmatch(name):
            raise UserError(
                "the list of weight files names a file that is none of the model's", where=str(index),
                why=f"found {str(name)[:80]!r}; shards lie beside the list and end in .safetensors",
            )  # fmt: skip
    return names


# -- memory ------------------------------------------------------------------------------------------------------------


def skeleton(config: Any, tensors: int, where: str) -> nn.Module:
    """A model without memory.

    Args:
        tensors: how many are stored; each layer has some, so more layers than that are a mistake or an attack.
    """
    layers = getattr(config, "layers", 0)
    if layers > tensors:
        raise UserError(f"{layers} layers are too many", where=where, why=f"{tensors} tensors are stored")
    try:
        with torch.device("meta"):
            return build(config)
    except (RuntimeError, TypeError, OverflowError) as error:  # sizes whose product no machine can count
        raise UserError("the model is too large", where=where, why=str(error).partition("\n")[0]) from error


def materialise(model: nn.Module) -> None:
    """Gives a model that was built without memory float32 memory, not yet filled; what is tied stays tied."""
    made: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None and parameter.is_meta:
                if id(parameter) not in made:
                    empty = torch.empty(parameter.shape, dtype=torch.float32, device="cpu")
                    made[id(parameter)] = nn.Parameter(empty, requires_grad=parameter.requires_grad)
                module._parameters[name] = made[id(parameter)]
        for name, buffer in module._buffers.items():
            if buffer is not None and buffer.is_meta:
                assert name not in module._non_persistent_buffers_set, f"nothing on disk fills {name}"
                module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype, device="cpu")


def fill(stored: Stored, targets: list[Tensor], link: Link) -> None:
    """Copies a stored tensor into our tensors, which it holds joined along the first dimension."""
    for start, piece in safetensors_file.pieces(stored):
        for target, part in _aligned(targets, start, piece, link):
            target.copy_(part)


def _aligned(targets: list[Tensor], start: int, piece: Tensor, link: Link) -> Iterator[tuple[Tensor, Tensor]]:
    """The parts of our tensors that a piece holds, each with its numbers."""
    if link.as_row:
        piece = piece[0]
    first = link.lead
    for target in targets:
        last = first + len(target)
        if link.transposed:
            yield target[:, start : start + len(piece)], piece[:, first:last].t()
        else:
            here, there = max(first, start), min(last, start + len(piece))
            if here < there:
                yield target[here - first : there - first], piece[here - start : there - start]
        first = last


def _same(copy: Stored, targets: list[Tensor], link: Link, first: Stored) -> None:
    """A tensor that is stored twice because it is tied must be the same twice."""
    for start, piece in safetensors_file.pieces(copy):
        for target, part in _aligned(targets, start, piece, link):
            if not torch.equal(target, part.to(target.dtype)):
                raise UserError(
                    f"{copy.name} and {first.name} should be the same and differ", where=str(copy.file),
                    why="config.json ties them (tie_word_embeddings)",
                    fix="set tie_word_embeddings to false there if the model was trained untied",
                )  # fmt: skip
