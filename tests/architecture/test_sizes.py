"""Files and functions stay small enough to be read at once."""

from __future__ import annotations

import ast
from pathlib import Path

import lmcraft

PACKAGE = Path(lmcraft.__file__).parent
FILE_LINES = 400
FUNCTION_LINES = 60
# Each larger one needs a reason.
LARGER_FILES: dict[str, tuple[int, str]] = {}
LARGER_FUNCTIONS: dict[str, tuple[int, str]] = {
    "train/loop.py": (
        120,
        "the loop is one page, in order: what happens at a step is answered by reading it",
    ),
}


def test_files_are_small() -> None:
    """If this failed, a file would have begun to be about more than one thing."""
    too_large = []
    for file in PACKAGE.rglob("*.py"):
        name = file.relative_to(PACKAGE).as_posix()
        limit, _ = LARGER_FILES.get(name, (FILE_LINES, ""))
        lines = len(file.read_text(encoding="utf-8").splitlines())
        if lines > limit:
            too_large.append(f"{name}: {lines} lines, at most {limit}")
    assert not too_large, "\n".join(too_large)


def test_functions_are_small() -> None:
    """If this failed, a function would have begun to do more than one thing."""
    too_large = []
    for file in PACKAGE.rglob("*.py"):
        name = file.relative_to(PACKAGE).as_posix()
        limit, _ = LARGER_FUNCTIONS.get(name, (FUNCTION_LINES, ""))
        for node in ast.walk(ast.parse(file.read_bytes())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = node.end_lineno - node.lineno + 1 - docstring_lines(node)
                if lines > limit:
                    too_large.append(f"{name}:{node.lineno} {node.name}: {lines} lines, at most {limit}")
    assert not too_large, "\n".join(too_large)


def test_no_exception_is_left_over() -> None:
    """If this failed, the tables above would excuse files that do not exist."""
    missing = [name for name in [*LARGER_FILES, *LARGER_FUNCTIONS] if not (PACKAGE / name).exists()]
    assert not missing, missing


def docstring_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Explaining a function must not make it too large."""
    first = node.body[0]
    is_text = (
        isinstance(first, ast.Expr)
        and isinstance(first.value, ast.Constant)
        and isinstance(first.value.value, str)
    )
    return first.end_lineno - first.lineno + 1 if is_text else 0
