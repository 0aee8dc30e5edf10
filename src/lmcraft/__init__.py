"""lmcraft carries a language model through its whole life, on the hardware you have.

`import lmcraft` is cheap: `train`, `load` and `evaluate` come from `lmcraft.api`, which is imported (and torch with
it) when one of them is first used. `lmcraft.train` is both that function and the folder of the training loop.

Proved by tests/architecture/test_startup.py.
"""

from __future__ import annotations

from importlib import import_module, metadata
from types import ModuleType
from typing import Any

from . import train

__all__ = ["__version__", "evaluate", "load", "train"]

_FROM_API = ("load", "evaluate")


class _Train(ModuleType):
    """The folder, which can be called: Python sets a folder as an attribute of its package, whatever was there."""

    def __call__(self, *arguments: Any, **settings: Any) -> Any:
        return import_module("lmcraft.api").train(*arguments, **settings)


train.__class__ = _Train


def __getattr__(name: str) -> Any:
    if name in _FROM_API:
        return getattr(import_module("lmcraft.api"), name)
    if name == "__version__":
        return metadata.version("lmcraft")
    raise AttributeError(f"module 'lmcraft' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
