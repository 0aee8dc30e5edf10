"""A GGUF file as a model in float32: config from its facts, every tensor accounted for, filled in piece by piece.

1. Names, shapes and sizes are compared before a single weight is read, so a file that does not fit costs nothing.
2. Where a tensor is one of ours as it stands, it is read straight into the parameter's memory.

Proved by tests/gguf/test_parity.py, tests/gguf/test_hostile_gguf.py and tests/gguf/test_pulled.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...core import gguf
from ...core.errors import UserError
from .. import families
from ..weights import materialise, skeleton
from . import tensors
from .architectures import ROTARY_FACTORS, architecture, public_config, restored, stored_name, with_llama3


def load(path: Path) -> nn.Module:
    """The model in a GGUF file, in float32 and evaluation mode.

    Raises:
        UserError: a damaged file, an architecture or a number format that is not known, tensors that do not fit.
    """
    header = gguf.read(path)
    public, family, config = _config(header)
    table = {stored_name(architecture(header), link.public): link for link in family.links(config)}
    _same_names(header, table)
    model = skeleton(config, len(header.tensors), str(path))
    _same_shapes(header, table, model.state_dict(keep_vars=True))
    materialise(model)
    weights = model.state_dict(keep_vars=True)
    with torch.no_grad():
        for name, link in table.items():
            _read(header, name, link, [weights[ours] for ours in link.ours], public)
    return model.eval()


def _config(header: gguf.Header) -> tuple[dict[str, Any], families.Family, Any]:
    """The public config, its family, and our Config."""
    public = public_config(header)
    if ROTARY_FACTORS in header.tensors:
        stored = header.tensors[ROTARY_FACTORS]
        factors = np.empty(stored.shape, np.float32)
        tensors.fill(header.path, stored, factors)
        public = with_llama3(public, factors, header)
    try:
        return public, *families.read(public, str(header.path))
    except (ValueError, ArithmeticError) as error:  # sizes that contradict each other
        why = " ".join(str(error).split()).partition(" For further information")[0]
        raise UserError(
            "the sizes of the model contradict each other", where=str(header.path), why=why
        ) from error


def _same_names(header: gguf.Header, table: dict[str, families.Link]) -> None:
    missing = [name for name in table if name not in header.tensors]
    left = [name for name in header.tensors if name not in table and name != ROTARY_FACTORS]
    _refuse(header, "missing", missing)
    _refuse(header, "left over", left)


def _same_shapes(header: gguf.Header, table: dict[str, families.Link], weights: dict[str, Tensor]) -> None:
    misshapen = []
    for name, link in table.items():
        ours = [weights[one] for one in link.ours]
        shape = (sum(len(one) for one in ours), *ours[0].shape[1:])
        if header.tensors[name].shape != shape:
            misshapen.append(f"{name} {list(header.tensors[name].shape)}, not {list(shape)}")
    _refuse(header, "of another shape", misshapen)


def _refuse(header: gguf.Header, what: str, names: list[str]) -> None:
    if names:
        shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
        raise UserError(f"{len(names)} tensors are {what}: {shown}", where=str(header.path),
                        why="the weights do not fit the sizes that the file tells")  # fmt: skip


def _read(
    header: gguf.Header, name: str, link: families.Link, ours: list[Tensor], public: dict[str, Any]
) -> None:
    stored = header.tensors[name]
    kind = architecture(header)
    if len(ours) == 1 and not link.transposed:
        out = ours[0].detach().numpy()
        tensors.fill(header.path, stored, out)
        values = restored(kind, name, out, public)
        if not np.may_share_memory(values, out):
            out[...] = values
        return
    out = np.empty(stored.shape, np.float32)
    tensors.fill(header.path, stored, out)
    values = torch.from_numpy(restored(kind, name, out, public))
    values = values.t() if link.transposed else values
    for one, part in zip(ours, values.split([len(one) for one in ours]), strict=True):
        one.copy_(part)
