"""Without the extra, the package works and the verb names what to install."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from lmcraft.core.errors import UserError
from lmcraft.feedback import opening


def test_a_missing_library_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """If this failed, a user without the extra would see an ImportError."""
    find = opening.find_spec
    monkeypatch.setattr(opening, "find_spec", lambda name: None if name == "alembic" else find(name))
    with pytest.raises(UserError, match="needs alembic") as told:
        opening.open_store("unused.db")
    assert "lmcraft[feedback]" in told.value.fix


def test_only_the_store_needs_its_libraries(tmp_path: Path) -> None:
    """If this failed, exported ratings could only be worked with where extra and torch are there."""
    parts = "opening guidelines judgement agreement preferences reliability export simulated rules reading"
    source = (
        "import sys; sys.modules.update(dict.fromkeys(['sqlalchemy', 'alembic', 'krippendorff', 'torch']))\n"
        f"from lmcraft.feedback import {', '.join(parts.split())}"
    )
    done = subprocess.run([sys.executable, "-c", source], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
