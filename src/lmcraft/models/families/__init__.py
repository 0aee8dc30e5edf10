"""Public model families: one file for each family or close kin, found by what it reads or writes.

A file here is a family if it defines `TYPES`, the public model types that it reads and the class each of them names in
`architectures`. It brings four functions: `from_public`, `to_public`, `expresses`, `links` (see family.Family).
"""

from __future__ import annotations

import pkgutil
from functools import cache
from importlib import import_module
from typing import Any, cast

from ...core.errors import UserError
from .family import Family, Link

__all__ = ["Family", "Link", "beside", "every", "of", "read"]


@cache
def every() -> tuple[Family, ...]:
    """All families, by the names of their files."""
    names = sorted(info.name for info in pkgutil.iter_modules(__path__))
    modules = [import_module(f"{__name__}.{name}") for name in names]
    return tuple(cast(Family, module) for module in modules if hasattr(module, "TYPES"))


def read(public: dict[str, Any], where: str) -> tuple[Family, Any]:
    """The family of a config.json and our Config of it.

    Raises:
        UserError: a type that nobody reads, or a setting that would be ignored.
    """
    model_type = public.get("model_type")
    known = {name: family for family in every() for name in family.TYPES}
    if model_type not in known:
        raise UserError(
            f"models of type {model_type!r} cannot be read", where=where, why=f"known types: {', '.join(sorted(known))}"
        )  # fmt: skip
    if public.get("quantization_config"):
        raise UserError(
            "quantized weights in safetensors are not read", where=where, why="config.json has a quantization_config",
            fix="use the unquantized model, or its GGUF file",
        )  # fmt: skip
    return known[model_type], known[model_type].from_public(public, where)


def beside(model_type: Any) -> tuple[str, ...]:
    """The JSON files beside config.json that a family reads too; `read` is given them under their names."""
    return next((getattr(f, "BESIDE", ()) for f in every() if model_type in f.TYPES), ())


def of(config: Any) -> Family | None:
    """The family that computes exactly what a Config of ours describes, or None."""
    return next((family for family in every() if family.expresses(config)), None)
