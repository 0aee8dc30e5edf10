"""Models on disk in the public layout: config.json and safetensors, for our models and the public families.

1. A decoder that a public family can express is saved under that family's names, so other programs load it as it is;
   any other model is saved under our own names with model_type `lmcraft`.
2. Loading explains every tensor: one that is missing, left over or of the wrong shape is an error that names it.
3. Only safetensors is read, whole or in shards; nothing in a model directory is executed.

Proved by tests/parity/test_decoder.py and tests/unit/models/test_weights.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ..core import find
from ..core.disk import read_json, write_json, writing
from ..core.errors import UserError
from . import decoder, families
from .model import build

NATIVE = "lmcraft"
# Buffers that some versions of public models store although they follow from the config.
DERIVED = ("rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias")


def save(model: nn.Module, directory: Path) -> None:
    """Writes config.json and model.safetensors."""
    config = model.config
    family = families.family_of(config) if isinstance(config, decoder.Config) else None
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    if family is None:
        public: dict[str, Any] = {"model_type": NATIVE, "lmcraft": config.model_dump(mode="json")}
        tensors = {name: tensor for name, tensor in weights.items() if not _is_tied_output(config, name)}
    else:
        public = families.to_public(family, config)
        tensors = dict(_to_public(families.links(family, config), weights))
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    with writing(directory, bytes_needed=size):
        directory.mkdir(parents=True, exist_ok=True)
        save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    write_json(directory / "config.json", public)


def load(directory: Path) -> nn.Module:
    """The model in a directory, in float32 and evaluation mode.

    Raises:
        UserError: not a model directory, an unknown type, or tensors that do not fit the config.
    """
    file = directory / "config.json"
    if not file.is_file():
        raise UserError("this is not a model directory", where=str(directory), why="it has no config.json")
    public = read_json(file)
    try:
        table = None
        if public.get("model_type") == NATIVE:
            config = find.module("models", public["lmcraft"]["kind"]).Config(**public["lmcraft"])
        else:
            family, config = families.from_public(public, str(file))
            table = list(families.links(family, config))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        why = " ".join(str(error).split()).partition(" For further information")[0]  # pydantic's
        raise UserError("config.json lacks or garbles a setting", where=str(file), why=why) from error
    with torch.device("meta"):
        model = build(config)
    model.to_empty(device="cpu")
    if getattr(config, "tied", False):
        model.output.weight = model.embedding.weight
    _fill(model, dict(_stored(directory)), table, directory)
    return model.eval()


def _is_tied_output(config: Any, name: str) -> bool:
    return bool(getattr(config, "tied", False)) and name == "output.weight"


def _to_public(table: Iterator[families.Link], weights: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    for link in table:
        tensor = torch.cat([weights[name] for name in link.ours])
        yield link.public, (tensor.t() if link.transposed else tensor).contiguous()


@torch.no_grad()
def _fill(
    model: nn.Module, stored: dict[str, Tensor], table: list[families.Link] | None, directory: Path
) -> None:
    """Copies the stored tensors into the model and accounts for each of them."""
    tied = bool(getattr(model.config, "tied", False))
    weights = {
        n: t for n, t in model.state_dict(keep_vars=True).items() if not _is_tied_output(model.config, n)
    }
    table = table or [families.Link(name, (name,)) for name in weights]
    missing, misshapen = [], []
    for link in table:
        name = link.public if link.public in stored else link.public.removeprefix("transformer.")
        if name not in stored:
            missing.append(link.public)
            continue
        tensor = stored.pop(name)
        tensor = tensor.t() if link.transposed else tensor
        rows = [weights[ours].shape[0] for ours in link.ours]
        if tensor.shape != (sum(rows), *weights[link.ours[0]].shape[1:]):
            misshapen.append(f"{name} {list(tensor.shape)}")
            continue
        for ours, part in zip(link.ours, tensor.split(rows), strict=True):
            weights[ours].copy_(part)
    left = [
        n
        for n in stored
        if not n.endswith(DERIVED) and not (tied and n in ("lm_head.weight", "output.weight"))
    ]
    for what, names in (("missing", missing), ("of another shape", misshapen), ("left over", left)):
        if names:
            shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
            raise UserError(
                f"{len(names)} tensors are {what}: {shown}", where=str(directory),
                why="the weights do not fit config.json", fix="use the config.json that belongs to these weights",
            )  # fmt: skip


def _stored(directory: Path) -> Iterator[tuple[str, Tensor]]:
    """Every tensor in the directory's safetensors file or shards."""
    index = directory / "model.safetensors.index.json"
    names = ["model.safetensors"]
    if index.is_file():
        try:
            names = sorted(set(read_json(index)["weight_map"].values()))
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(
                "the list of weight files is damaged", where=str(index), why=f"{error!r}"
            ) from error
    for name in names:
        file = directory / Path(name).name
        if not file.is_file():
            raise UserError(
                f"{file.name} is missing", where=str(directory), why="only safetensors weights are read"
            )
        try:
            with safe_open(file, framework="pt") as tensors:
                for key in tensors.keys():  # noqa: SIM118 - safe_open is no mapping
                    yield key, tensors.get_tensor(key)
        except SafetensorError as error:
            raise UserError(f"the weights cannot be read: {error}", where=str(file)) from error
