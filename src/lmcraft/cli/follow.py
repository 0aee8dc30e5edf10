"""Follows training to its end with a progress line; shared by the verbs that train.

Proved by tests/cli/test_life.py.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from ..core.log import Progress

if TYPE_CHECKING:
    from ..train.loop import Step


def follow(steps: Iterable[Step], label: str) -> Step | None:
    """Runs training to its end with a progress line; the last step, or None if there was nothing left to do."""
    last = None
    progress: Progress | None = None
    try:
        for step in steps:
            if progress is None:
                progress = Progress(step.steps, "steps", label, start=step.number - 1)
                progress.__enter__()
            progress.update(
                step.number, loss=step.loss, lr=step.lr, **{"tok/s": round(step.tokens_per_s)},
                memory=f"{step.memory_bytes / 1e9:.2f} GB",
            )  # fmt: skip
            last = step
    finally:
        if progress is not None:
            progress.__exit__(None, None, None)
    return last
