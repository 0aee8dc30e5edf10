"""The one exception for mistakes that the user can mend.

A message answers four questions: what went wrong, where, why, and how to mend it. The command line prints it without a
traceback and exits with code 2; anything else that escapes is our bug and exits with code 1.

Proved by tests/unit/core/test_errors.py.
"""

from __future__ import annotations


class UserError(Exception):
    """A mistake in what the user gave: input, option, file or machine.

    Args:
        what: one sentence, what went wrong.
        where: file and line, option or path.
        why: the reason, or what was expected instead.
        fix: what to do about it.
    """

    exit_code = 2
    everywhere = False  # all processes of a distributed run raise it, so that one of them needs to tell it

    def __init__(
        self, what: str, *, where: str | None = None, why: str | None = None, fix: str | None = None
    ) -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.why = why
        self.fix = fix

    def __str__(self) -> str:
        lines = [self.what]
        for label, text in (("where", self.where), ("why", self.why), ("fix", self.fix)):
            if text:
                lines.append(f"  {label}: {text}")
        return "\n".join(lines)
