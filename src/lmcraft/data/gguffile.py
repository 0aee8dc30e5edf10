"""What the store needs to know of a .gguf file: that it is one, and a plain name for it.

Proved by tests/unit/data/test_modelfiles.py.
"""

from __future__ import annotations

import re
from pathlib import Path

from ..core.errors import UserError

_MAGIC = b"GGUF"


def require(path: Path) -> None:
    """Raise a UserError unless the file begins as GGUF files do."""
    with path.open("rb") as file:
        magic = file.read(len(_MAGIC))
    if magic != _MAGIC:
        raise UserError(
            "this is not a GGUF file", where=str(path), why=f"it begins with {magic!r}, not {_MAGIC!r}"
        )


def stored_name(name: str) -> str:
    """The name of a .gguf file in the store: plain letters, not too long, and never hidden."""
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", re.sub(r"(?i)\.gguf$", "", name)).strip("-.")
    return f"{stem[:100] or 'model'}.gguf"
