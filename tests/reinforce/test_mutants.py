"""Mistakes are planted one at a time, and the test that is named for each must fail."""

from __future__ import annotations
import __future__

import importlib
import importlib.util
import inspect
import textwrap
from functools import cache
from pathlib import Path
from types import FunctionType, ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


@cache
def module_of(file: Path) -> ModuleType:
    """A test's file, loaded once more under a name of its own."""
    spec = importlib.util.spec_from_file_location(f"lmcraft_planted_{file.stem}", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def mutants() -> ModuleType:
    name = "lmcraft_mutants"
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name("mutants.py"))
    module = importlib.util.module_from_spec(spec)
    importlib.sys.modules[name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


LIST = mutants()


@pytest.fixture
def world(make_world):
    """Answers of two tokens: everything a mistake needs to show, in no time."""
    return make_world(longest=2)


def function(where: str) -> FunctionType:
    """The function that `module:qualified.name` names, without its decorators."""
    module, _, names = where.partition(":")
    found = importlib.import_module(module)
    for name in names.split("."):
        found = inspect.getattr_static(found, name)
    return inspect.unwrap(found)


def planted(whole: FunctionType, old: str, new: str):
    """The code of a function in which one piece of text is another."""
    source = textwrap.dedent(inspect.getsource(whole))
    assert source.count(old) == 1, f"{old!r} stands {source.count(old)} times in {whole.__qualname__}"
    flags = __future__.annotations.compiler_flag
    names = dict(whole.__globals__)
    exec(compile(source.replace(old, new), whole.__code__.co_filename, "exec", flags), names)
    return inspect.unwrap(names[whole.__name__]).__code__


@pytest.mark.parametrize("mutant", LIST.MUTANTS, ids=lambda mutant: mutant.name.replace(" ", "-"))
def test_a_mistake_is_noticed(mutant, monkeypatch, request):
    """A failure would mean that this mistake could be made, and every test would still pass."""
    file, _, name = mutant.test.partition("::")
    module = module_of(ROOT / file)
    test = getattr(module, name)
    given = {n: value(module) if callable(value) else value for n, value in mutant.given.items()}
    for parameter in inspect.signature(test).parameters:
        if parameter not in given:
            given[parameter] = request.getfixturevalue(parameter)
    whole = function(mutant.where)
    monkeypatch.setattr(whole, "__code__", planted(whole, mutant.old, mutant.new))
    with pytest.raises(AssertionError):
        test(**given)


def test_without_a_mistake_the_gradient_is_exact(world):
    """The named tests run by themselves too, but this one in a larger world; a failure would make it no witness."""
    file, _, name = LIST.GRADIENT.partition("::")
    getattr(module_of(ROOT / file), name)(world)
    assert len({mutant.name for mutant in LIST.MUTANTS}) == len(LIST.MUTANTS) >= 20


def test_the_page_has_the_table():
    """A failure would mean that docs/rlhf-checks.md is stale: put `python tests/reinforce/mutants.py` into it."""
    assert LIST.table() in (ROOT / "docs" / "rlhf-checks.md").read_text(encoding="utf-8")
