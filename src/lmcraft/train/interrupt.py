"""SIGINT and SIGTERM ask the loop to save and stop; a second one stops at once.

The exit code is 130 after SIGINT and 143 after SIGTERM, as shells expect.

Proved by tests/faults/test_signals.py.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from ..core.errors import UserError

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(UserError):
    """Training was asked to stop and has saved; the same command goes on from there."""

    def __init__(self, number: int, step: int, run: str) -> None:
        super().__init__(
            f"stopped by {signal.Signals(number).name} after step {step}; everything is saved",
            where=run,
            fix="run the same command again to go on",
        )
        self.step = step
        self.exit_code = 128 + number
        self.everywhere = True


class Request:
    """Holds the first signal that came, if any."""

    number: int | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.number is not None:
            os._exit(128 + number)
        self.number = number


@contextlib.contextmanager
def listening() -> Iterator[Request]:
    """Catches both signals while inside; outside the main thread, where that is impossible, catches nothing."""
    request = Request()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {number: signal.signal(number, request) for number in SIGNALS}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
