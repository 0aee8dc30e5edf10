"""What a verb prints on stdout: one JSON document, or text for people.

Proved by tests/cli/test_output.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..core.run import to_json


def emit(result: dict[str, Any], as_json: bool, text: str | Callable[[], str | None]) -> None:
    """Prints the result of a verb: as JSON (NaN becomes null), or the text, or what the function prints or returns."""
    if as_json:
        print(to_json(result))
        return
    shown = text if isinstance(text, str) else text()
    if shown:
        print(shown)


def table(headings: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Columns aligned with spaces, numbers to the right; nothing is cut off, so it can be searched and piped."""
    cells = [[_shown(value) for value in row] for row in rows]
    widths = [max(len(row[column]) for row in [headings, *cells]) for column in range(len(headings))]
    right = [
        bool(rows) and all(isinstance(row[column], int | float | None) for row in rows)
        for column in range(len(headings))
    ]
    return "\n".join(
        "  ".join(
            text.rjust(width) if number else text.ljust(width)
            for text, width, number in zip(row, widths, right, strict=True)
        ).rstrip()
        for row in [list(headings), *cells]
    )


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
