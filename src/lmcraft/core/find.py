"""Finds plug-ins by file name: `adapter.kind=lora` is the file `adapt/lora.py`.

1. A file is a plug-in if and only if it defines `Config` at its top level. That is read from its syntax tree, so
   listing the names of a folder imports nothing (and so no torch).
2. Other packages add plug-ins with entry points in the group `lmcraft.<folder>` whose value is a module. A name that is
   taken by two of them, or by us and one of them, is refused rather than decided by import order.

Proved by tests/unit/core/test_find.py.
"""

from __future__ import annotations

import ast
import difflib
from functools import cache
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

from .errors import UserError


def names(folder: str) -> list[str]:
    """The plug-in names of a folder of the package (such as "stages"), ours and those of other packages, sorted."""
    return sorted(_built_in(folder) | _outside(folder).keys())


def module(folder: str, name: str) -> ModuleType:
    """Imports the plug-in `name` of a folder.

    Raises:
        UserError: no such name (the valid ones are listed), a name given twice, or a package that the plug-in needs
            is not installed.
    """
    built_in, outside = _built_in(folder), _outside(folder)
    if name not in built_in and name not in outside:
        raise _unknown(folder, name)
    origins = (["lmcraft"] if name in built_in else []) + [_origin(point) for point in outside.get(name, [])]
    if len(origins) > 1:
        raise UserError(
            f"the name {name!r} in {folder} is defined more than once",
            where=", ".join(origins),
            fix="uninstall one of these packages, or ask its authors to rename the plug-in",
        )
    target = f"lmcraft.{folder}.{name}" if name in built_in else outside[name][0].value
    try:
        return import_module(target)
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing in ("", "lmcraft"):
            raise
        raise UserError(
            f"{folder} {name!r} needs the Python package {missing!r}, which is not installed",
            fix=f"pip install {missing}",
        ) from error


def suggestion(word: str, valid: list[str]) -> str:
    """`"; did you mean 'lora'?"` if a valid word is close to the given one, else an empty string."""
    close = difflib.get_close_matches(word, valid, n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""


def _unknown(folder: str, name: str) -> UserError:
    valid = names(folder)
    return UserError(
        f"there is no {name!r} in {folder}{suggestion(name, valid)}",
        why=f"valid names: {', '.join(valid) or 'none'}",
    )


def _built_in(folder: str) -> set[str]:
    spec = find_spec(f"lmcraft.{folder}")
    assert spec is not None and spec.submodule_search_locations, f"lmcraft has no folder {folder!r}"
    files = [file for place in spec.submodule_search_locations for file in Path(place).glob("*.py")]
    return {file.stem for file in files if _is_plugin(file, file.stat().st_mtime_ns)}


def _outside(folder: str) -> dict[str, list[metadata.EntryPoint]]:
    points: dict[str, list[metadata.EntryPoint]] = {}
    for point in metadata.entry_points(group=f"lmcraft.{folder}"):
        points.setdefault(point.name, []).append(point)
    return points


def _origin(point: metadata.EntryPoint) -> str:
    return point.dist.name if point.dist else point.value


@cache
def _is_plugin(file: Path, _modified_ns: int) -> bool:
    """Whether the file defines `Config`; the time of modification is part of the key of the cache."""
    for node in ast.parse(file.read_bytes(), str(file)).body:
        match node:
            case ast.ClassDef(name="Config"):
                return True
            case ast.Assign(targets=targets) if any(
                isinstance(t, ast.Name) and t.id == "Config" for t in targets
            ):
                return True
    return False
