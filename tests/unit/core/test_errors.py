"""The one exception for mistakes of the user."""

from __future__ import annotations

from lmcraft.core.errors import UserError


def test_only_what_is_known_is_shown() -> None:
    """If this failed, messages would show empty "why:" lines or hide what they know."""
    assert str(UserError("it broke")) == "it broke"
    full = UserError("it broke", where="a.yaml:3", why="no such key", fix="remove it")
    assert str(full) == "it broke\n  where: a.yaml:3\n  why: no such key\n  fix: remove it"
    assert UserError.exit_code == 2
