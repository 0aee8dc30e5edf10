"""Without the extra, the package works and the verb names what to install."""

from __future__ import annotations

import subprocess
import sys

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


def test_guidelines_and_judgements_need_no_library() -> None:
    """If this failed, `import lmcraft.feedback` would not work where the extra is not installed."""
    source = (
        "import sys; sys.modules['sqlalchemy'] = sys.modules['alembic'] = sys.modules['krippendorff'] = None\n"
        "import lmcraft.feedback.opening, lmcraft.feedback.judgement, lmcraft.feedback.guidelines"
    )
    assert subprocess.run([sys.executable, "-c", source]).returncode == 0
