"""The package never runs code that it finds in data, and reaches for no shell."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import lmcraft

PACKAGE = Path(lmcraft.__file__).parent
MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "marshal", "shelve", "joblib"}
NAMES = {"eval", "exec", "compile", "__import__"}
CALLS = {
    "torch.load", "torch.save", "torch.hub.load", "torch.jit.load", "yaml.load", "yaml.load_all", "yaml.unsafe_load",
    "yaml.full_load", "os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput",
}  # fmt: skip
KEYWORDS = {"trust_remote_code", "shell", "allow_pickle"}


def forbidden(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and name of everything forbidden in a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (
                (node.lineno, alias.name) for alias in node.names if alias.name.split(".")[0] in MODULES
            )
        elif isinstance(node, ast.ImportFrom):
            if (node.module or "").split(".")[0] in MODULES:
                yield node.lineno, node.module
            yield from (
                (node.lineno, f"{node.module}.{alias.name}")
                for alias in node.names
                if f"{node.module}.{alias.name}" in CALLS
            )
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called in CALLS or (isinstance(node.func, ast.Name) and called in NAMES):
                yield node.lineno, called
            for keyword in node.keywords:
                if keyword.arg in KEYWORDS and not (
                    isinstance(keyword.value, ast.Constant) and keyword.value.value is False
                ):
                    yield node.lineno, keyword.arg


def test_no_module_uses_them() -> None:
    """If this failed, a hostile file or model name could run code on the user's machine."""
    found = [
        f"{file.relative_to(PACKAGE)}:{line} {name}"
        for file in PACKAGE.rglob("*.py")
        for line, name in forbidden(ast.parse(file.read_bytes()))
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "source",
    [
        "import pickle", "from pickle import loads", "import torch\ntorch.load('x')", "from torch import load",
        "eval('1')", "exec(code)", "import yaml\nyaml.load(x, Loader=yaml.SafeLoader)", "run('ls', shell=True)",
        "f(trust_remote_code=flag)", "np.load(f, allow_pickle=True)", "import os\nos.system('ls')",
    ],
)  # fmt: skip
def test_the_search_finds_each_of_them(source: str) -> None:
    """If this failed, the search above would be blind to one of the ways."""
    assert list(forbidden(ast.parse(source)))


@pytest.mark.parametrize(
    "source", ["model.eval()", "re.compile('x')", "np.load(f, allow_pickle=False)", "load(x)"]
)
def test_the_search_lets_harmless_calls_pass(source: str) -> None:
    """If this failed, honest code would have to be bent around the search."""
    assert not list(forbidden(ast.parse(source)))
