"""Writes docs/settings.md: every setting of a recipe with its default, from the Configs; `--check` only compares.

Proved by tests/cli/test_examples.py.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from lmcraft.core import find
from lmcraft.recipe import Recipe

PAGE = Path(__file__).with_name("settings.md")
HEAD = """# Every setting

What stands in a recipe or in the `key=value` arguments of `lmcraft train`. A dash means: not given; the last column
says what happens then. Generated from the code by `make docs`; `make check` fails when it is stale.
"""
TABLE = ["| setting | default | |", "|---|---|---|"]


def build() -> str:
    """The whole page."""
    parts = [HEAD, "## Of every training\n", *table(Recipe, "", leave_out=("stage", "model"))]
    stages, models = (
        {name: find.module(folder, name) for name in find.names(folder)} for folder in ("stages", "models")
    )
    parts += [
        "\n## Stages\n",
        "The learning rate is the peak of the schedule where `train.lr` is not given.\n",
    ]
    parts += ["| stage | default model | learning rate |", "|---|---|---|"]
    parts += [f"| `{name}` | `{module.MODEL}` | {module.LR:g} |" for name, module in stages.items()]
    for title, prefix, modules in (("stage", "stage.", stages), ("model", "model.", models)):
        if title == "model":
            parts += ["\n## Models\n", "Where there is no `base`: what is built from nothing."]
        for name, module in modules.items():
            parts += [f"\n### `{title}.kind={name}`\n", first_line(module.__doc__) + "\n"]
            parts += table(module.Config, prefix, leave_out=("kind",))
    return "\n".join(parts) + "\n"


def table(schema: type[BaseModel], prefix: str, leave_out: tuple[str, ...]) -> list[str]:
    """The rows of a schema and of the groups in it."""
    rows = [*of(schema, prefix, leave_out)]
    return [*TABLE, *rows] if rows else ["No settings of its own."]


def of(schema: type[BaseModel], prefix: str, leave_out: tuple[str, ...] = ()) -> Iterator[str]:
    for name, field in schema.model_fields.items():
        if name in leave_out:
            continue
        group = next((part for part in parts_of(field.annotation) if is_schema(part)), None)
        if group is not None:
            if field.default is None:
                yield f"| `{prefix}{name}` | – | {about(field)} |"
            yield from of(group, f"{prefix}{name}.")
        else:
            yield f"| `{prefix}{name}` | {default(field)} | {about(field)} |"


def about(field: FieldInfo) -> str:
    """The description, and the words that may be chosen from."""
    words = [
        value
        for part in parts_of(field.annotation)
        if get_origin(part) is Literal
        for value in get_args(part)
    ]
    text = [", ".join(f"`{word}`" for word in words if word is not None)] if words else []
    return ": ".join([*text, *([field.description] if field.description else [])]).replace("|", "\\|")


def default(field: FieldInfo) -> str:
    """As it would be written in YAML."""
    value = None if field.is_required() else field.default
    if value is None:
        return "–"
    if isinstance(value, bool):
        return str(value).lower()
    return str(list(value) if isinstance(value, tuple) else value)


def parts_of(annotation: Any) -> Iterator[Any]:
    """The alternatives of a union, or the annotation itself."""
    if get_origin(annotation) in (Union, types.UnionType):
        for part in get_args(annotation):
            yield from parts_of(part)
    else:
        yield annotation


def is_schema(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def first_line(docstring: str | None) -> str:
    return (docstring or "").partition("\n")[0]


def main() -> int:
    """Writes the page, or with --check returns 1 if it is stale."""
    page = build()
    if "--check" not in sys.argv:
        PAGE.write_text(page, encoding="utf-8")
        return 0
    if PAGE.exists() and PAGE.read_text(encoding="utf-8") == page:
        return 0
    print("docs/settings.md is stale; run: make docs", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
