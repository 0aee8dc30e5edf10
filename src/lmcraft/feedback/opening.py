"""Opens the store, or says which extra is missing; importing this needs no library.

Proved by tests/feedback/test_opening.py.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from ..core.errors import UserError

if TYPE_CHECKING:
    from .store import Store


def open_store(url: str | None = None) -> Store:
    """The store at a URL or path; default: LMCRAFT_FEEDBACK_DB, or runs/feedback.db.

    Raises:
        UserError: the libraries are not installed, or the database cannot be used.
    """
    require("sqlalchemy", "alembic")
    from .store import Store

    return Store(url)


def require(*libraries: str) -> None:
    """Raises a UserError that names the extra unless all libraries are installed."""
    missing = [name for name in libraries if find_spec(name) is None]
    if missing:
        raise UserError(
            f"human feedback needs {' and '.join(missing)}, not installed here",
            fix="pip install 'lmcraft[feedback]'",
        )
