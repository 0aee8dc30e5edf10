"""Show what a run, a model directory or a name in the store is: config, parameters, licence, lineage, files, digests.

Proved by tests/cli/test_show.py.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from ..core.disk import digest
from ..core.errors import UserError
from ..core.run import Run
from ..data import catalog, store
from . import describe
from .output import emit, table

_GENERATIONS = 20  # of parents; runs that name each other in a circle would go on for ever
_APART = (
    "config",
    "model_config",
    "adapter_config",
    "adapter",
    "lineage",
    "files",
)  # shown below the other facts


def command(
    name: Annotated[str, typer.Argument(help="A run, a model directory, a .gguf file, or a name.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Show what a run, a model or a name in the store is: `lmcraft show runs/demo/sft`."""
    from ..core import gguf  # its library brings numpy, which help texts do not need

    if name in catalog.ENTRIES and not store.has(name) and not Path(name).exists():
        entry = catalog.ENTRIES[name]
        result = {"type": "catalog", **asdict(entry), "fetch": f"lmcraft pull {name}"}
        emit(result, as_json, lambda: _fields(result))
        return
    result = {}
    if store.has(name) and not Path(name).exists():
        stored = store.get(name)
        result = {"type": stored.kind, **asdict(stored), "path": str(stored.path)}
        place = store.path(name)
        result["files"] = {
            file: (place / file).stat().st_size for file in stored.files if (place / file).exists()
        }
    place = store.resolve(name)
    if not place.exists():
        raise UserError(
            "there is nothing to show here", where=name, fix="`lmcraft runs` and `lmcraft models` list"
        )
    if Run.exists(place):
        try:
            result |= _run(Run.open(place))
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(
                "the records of this run are damaged",
                where=f"{place}: origin.json or state.json",
                why=str(error),
            ) from error
    elif place.is_dir():
        result |= {"type": "model", "path": str(place), **_merged(describe.directory(place), result)}
    elif gguf.is_gguf(place):
        result |= {
            "type": "model",
            "path": str(place),
            **_merged(describe.gguf_file(place), result),
            **_file(place),
        }
    else:
        result = {"type": "data", **result, **_file(place), "look": f"lmcraft data {name}"}
    emit(result, as_json, lambda: _text(result))


def _run(run: Run) -> dict[str, Any]:
    state, origin = run.state, run.origin
    facts = {
        "type": "run",
        "path": str(run.path),
        "status": state["status"],
        "step": state.get("step"),
        "created": origin["created"],
        "seed": origin["seed"],
        "command": " ".join(origin["command"]),
        "packages": origin["packages"],
        "config": run.config_text,
        "lineage": _lineage(run, 1),
    }
    model = next((run.path / part for part in ("model", "adapter") if (run.path / part).is_dir()), None)
    return facts | (describe.directory(model) if model else {})


def _lineage(run: Run, generation: int) -> list[dict[str, Any]]:
    """What the run was made of, and that of what: path, digest, and whether it is still the same."""
    found = []
    for path, parent in zip(run.parents, run.origin["parents"], strict=True):
        content = next((path / part for part in ("model", "adapter") if (path / part).is_dir()), path)
        state = "missing"
        if content.exists():
            state = "unchanged" if digest(content) == parent["digest"] else "changed since"
        found.append(
            {"path": str(path), "sha256": parent["digest"], "state": state, "generation": generation}
        )
        if generation < _GENERATIONS and Run.exists(path):
            found += _lineage(Run.open(path), generation + 1)
    return found


def _merged(found: dict[str, Any], stored: dict[str, Any]) -> dict[str, Any]:
    """What the files say, with the licence that was stated when they were pulled, if one was, and what to do next."""
    stated = stored.get("licence")
    if stated and (stated != "not stated" or not found.get("licence")):
        found = {**found, "licence": stated}
    if stored.get("name") and found.get("chat_template"):
        found["talk"] = f"lmcraft chat {stored['name']}"
    return found


def _file(file: Path) -> dict[str, Any]:
    return {"path": str(file), "bytes": file.stat().st_size, "sha256": digest(file)}


def _text(result: dict[str, Any]) -> str:
    parts = [_fields({name: value for name, value in result.items() if name not in _APART})]
    if result.get("lineage"):
        rows = [
            ["  " * (one["generation"] - 1) + one["path"], one["state"], one["sha256"][:16]]
            for one in result["lineage"]
        ]
        parts.append(table(["made from", "", "sha256"], rows))
    if result.get("files"):
        parts.append(table(["file", "bytes"], [[name, size] for name, size in result["files"].items()]))
    for name in ("model_config", "adapter_config", "adapter"):
        if result.get(name):
            parts.append(f"{name}\n{_fields(result[name])}")
    if result.get("config"):
        parts.append(f"config.yaml\n{result['config']}")
    return "\n\n".join(part.rstrip() for part in parts)


def _fields(facts: dict[str, Any]) -> str:
    return "\n".join(
        f"{name}: {_shown(value)}" for name, value in facts.items() if value not in (None, "", {}, [])
    )


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, dict):
        return ", ".join(f"{name} {_shown(one)}" for name, one in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_shown, value))
    return str(value)
