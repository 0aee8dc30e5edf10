"""lmcraft carries a language model through its whole life, on the hardware you have.

`import lmcraft` is cheap: `train`, `load` and `evaluate` come from `lmcraft.api`, which is imported (and torch with
it) when one of them is first used.

Proved by tests/architecture/test_startup.py.
"""

from __future__ import annotations

from importlib import import_module, metadata
from typing import Any

__all__ = ["__version__", "evaluate", "load", "train"]

_FROM_API = ("train", "load", "evaluate")


def __getattr__(name: str) -> Any:
    if name in _FROM_API:
        return getattr(import_module("lmcraft.api"), name)
    if name == "__version__":
        return metadata.version("lmcraft")
    raise AttributeError(f"module 'lmcraft' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
