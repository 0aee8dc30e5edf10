"""Join a large file that was published in parts, and check it against the SHA-256 that was published with it.

1. The parts are called `NAME.part00`, `NAME.part01` … and joined in that order; each is removed as soon as it is in.
2. `SHA256SUMS` has the digest of the whole; anything else is refused.

Proved by tests/unit/data/test_sources.py.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from ...core.disk import digest
from ...core.errors import UserError


def convert(folder: Path, target: Path) -> dict[str, int]:
    """Write the whole to `target`; returns how many parts it had."""
    parts = sorted(folder.glob(f"{target.name}.part*"))
    with target.open("wb") as whole:
        for part in parts:
            with part.open("rb") as file:
                shutil.copyfileobj(file, whole, 2**20)
            part.unlink()
    expected = (folder / "SHA256SUMS").read_text(encoding="utf-8").split()[0]
    if digest(target) != expected:
        raise UserError(
            "the parts do not make the whole that was published", where=target.name,
            why=f"the SHA-256 is {digest(target)}, expected {expected}",
        )  # fmt: skip
    return {"parts": len(parts)}
