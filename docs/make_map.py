"""Writes docs/map.md: every module of the package with the first sentence of its docstring; `--check` only compares.

Proved by tests/architecture/test_docstrings.py.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "lmcraft"
MAP = ROOT / "docs" / "map.md"
HEAD = """# Map

Every module and what it is, by folder, in the order of imports: a folder imports only from folders above it.
Generated from docstrings by `make docs`; `make check` fails when it is stale.
"""
FOLDERS = """core text layers data models adapt generate train stages evals feedback export report . inspect
    studies serve cli""".split()


def build() -> str:
    """The whole page."""
    folders = {file.parent.relative_to(PACKAGE).as_posix() for file in PACKAGE.rglob("*.py")}
    order = {folder: place for place, folder in enumerate(FOLDERS)}

    def place(folder: str) -> tuple[int, str]:
        return order.get(folder.partition("/")[0], len(order)), folder

    return "\n".join([HEAD, *(section(folder) for folder in sorted(folders, key=place))])


def section(folder: str) -> str:
    """The heading of a folder, its sentence, and a table of its modules."""
    title = "lmcraft" if folder == "." else folder
    about = first_line(PACKAGE / folder / "__init__.py")
    files = sorted(file for file in (PACKAGE / folder).glob("*.py") if file.name != "__init__.py")
    rows = [f"| [{file.stem}](../{file.relative_to(ROOT)}) | {first_line(file)} |" for file in files]
    table = ["| module | what it is |", "|---|---|", *rows, ""] if rows else []
    return "\n".join([f"## {title}", "", about, "", *table])


def first_line(file: Path) -> str:
    """The first line of a file's docstring, safe inside a table."""
    if not file.exists():
        return ""
    docstring = ast.get_docstring(ast.parse(file.read_bytes())) or ""
    return docstring.partition("\n")[0].replace("|", "\\|")


def main() -> int:
    """Writes the map, or with --check returns 1 if it is stale."""
    page = build()
    if "--check" not in sys.argv:
        MAP.write_text(page, encoding="utf-8")
        return 0
    if MAP.exists() and MAP.read_text(encoding="utf-8") == page:
        return 0
    print("docs/map.md is stale; run: make docs", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
