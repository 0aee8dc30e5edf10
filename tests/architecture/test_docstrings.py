"""Every module says what it is and which test proves it, and the map made of that is fresh."""

from __future__ import annotations

import ast
import re
import runpy
from pathlib import Path

import lmcraft

PACKAGE = Path(lmcraft.__file__).parent
ROOT = Path(__file__).resolve().parents[2]


def docstrings() -> dict[Path, str]:
    files = sorted(PACKAGE.rglob("*.py"))
    return {file.relative_to(ROOT): ast.get_docstring(ast.parse(file.read_bytes())) or "" for file in files}


def test_every_module_says_what_it_is_in_one_line() -> None:
    """If this failed, help and map would have a line without a meaning."""
    wrong = [
        str(file)
        for file, text in docstrings().items()
        if not re.fullmatch(r"[`A-Za-z*].{10,118}[.:]", text.partition("\n")[0])
    ]
    assert not wrong, wrong


def test_every_module_names_tests_that_exist() -> None:
    """If this failed, a module would be untested, or its docstring would name a proof that is not there."""
    wrong = []
    for file, text in docstrings().items():
        if file.name == "__init__.py" and file.parent != Path("src/lmcraft"):
            continue
        proofs = re.findall(r"tests/[\w/.*-]+\b", text.partition("Proved by")[2])
        if not proofs:
            wrong.append(f"{file}: no 'Proved by tests/…'")
        wrong += [f"{file}: {proof} does not exist" for proof in proofs if not list(ROOT.glob(proof))]
    assert not wrong, "\n".join(wrong)


def test_the_map_is_fresh() -> None:
    """If this failed, docs/map.md would describe modules that are gone, or miss new ones: run `make docs`."""
    page = runpy.run_path(str(ROOT / "docs" / "make_map.py"))["build"]()
    assert (ROOT / "docs" / "map.md").read_text(encoding="utf-8") == page


def test_the_map_has_every_module() -> None:
    """If this failed, a new folder would be left out of the map without a word."""
    page = (ROOT / "docs" / "map.md").read_text(encoding="utf-8")
    missing = [
        str(file) for file in docstrings() if file.name != "__init__.py" and f"(../{file})" not in page
    ]
    assert not missing, missing
