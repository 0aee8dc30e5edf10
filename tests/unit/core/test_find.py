"""Plug-ins are found by file name, without importing them."""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path
from types import ModuleType

import pytest

import lmcraft
from lmcraft.core import find
from lmcraft.core.errors import UserError


@pytest.fixture
def zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder `lmcraft.zoo` with two plug-ins, a shared file and a plug-in that needs a missing package."""
    folder = tmp_path / "zoo"
    folder.mkdir()
    files = {
        "__init__": "",
        "lion": "class Config:\n    roar = 1\n",
        "zebra": "Config = dict\n",
        "animal": "class Animal:\n    class Config: ...\n",
        "robot": "import no_such_package_at_all\nclass Config: ...\n",
    }
    for name, source in files.items():
        (folder / f"{name}.py").write_text(source)
    monkeypatch.setattr(lmcraft, "__path__", [*lmcraft.__path__, str(tmp_path)])
    yield folder
    for name in [name for name in sys.modules if name.startswith("lmcraft.zoo")]:
        del sys.modules[name]


def test_a_file_is_a_plugin_if_it_defines_config_at_its_top_level(zoo: Path) -> None:
    """If this failed, shared files would be offered as options, or listing would import (and torch with it)."""
    assert find.names("zoo") == ["lion", "robot", "zebra"]
    assert "lmcraft.zoo.lion" not in sys.modules


def test_a_new_file_is_found_at_once(zoo: Path) -> None:
    """If this failed, the cache of syntax trees would hide a plug-in written or changed while we run."""
    assert "tiger" not in find.names("zoo")
    (zoo / "tiger.py").write_text("class Config: ...\n")
    assert "tiger" in find.names("zoo")


def test_the_module_is_imported_by_its_name(zoo: Path) -> None:
    """If this failed, an option would not lead to its file."""
    assert find.module("zoo", "lion").Config.roar == 1


@pytest.mark.parametrize("name", ["lino", "animal", "../lion", "lion.Config", "", "__init__"])
def test_an_unknown_name_lists_the_valid_ones(zoo: Path, name: str) -> None:
    """If this failed, a typo would end in a traceback, or a name could reach files that are not plug-ins."""
    with pytest.raises(UserError) as caught:
        find.module("zoo", name)
    assert "lion, robot, zebra" in str(caught.value)
    assert ("did you mean 'lion'?" in str(caught.value)) == (name in ("lino", "../lion"))


def test_a_missing_package_is_named(zoo: Path) -> None:
    """If this failed, a plug-in with an optional dependency would end in a traceback."""
    with pytest.raises(UserError, match="needs the Python package 'no_such_package_at_all'") as caught:
        find.module("zoo", "robot")
    assert caught.value.fix == "pip install no_such_package_at_all"


def test_other_packages_add_plugins(zoo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If this failed, the promise of entry points would be empty, or would hide one of two equal names."""
    outside = ModuleType("outside_panda")
    monkeypatch.setitem(sys.modules, "outside_panda", outside)
    points = [
        metadata.EntryPoint("panda", "outside_panda", "lmcraft.zoo"),
        metadata.EntryPoint("lion", "outside_panda", "lmcraft.zoo"),
    ]
    monkeypatch.setattr(metadata, "entry_points", lambda group: points if group == "lmcraft.zoo" else [])
    assert find.names("zoo") == ["lion", "panda", "robot", "zebra"]
    assert find.module("zoo", "panda") is outside
    with pytest.raises(UserError, match="defined more than once"):
        find.module("zoo", "lion")
