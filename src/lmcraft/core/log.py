"""Progress for people, on stderr, and metrics for machines, in the run.

1. On a terminal one line is updated in place. Elsewhere (files, CI) plain lines appear: the first after 2 s, then at
   doubling distances up to a minute, so a log of hours stays readable.
2. Only the first process of a distributed run speaks.
3. TensorBoard events are written in the calling thread: the usual writer starts a thread and a queue, which neither
   survive a fork of data workers nor a full disk with a message.

Proved by tests/unit/core/test_log.py.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import Any, TextIO

from .disk import writing
from .run import Run

FIRST_LINE_S = 2.0
LONGEST_SILENCE_S = 60.0


def speaks() -> bool:
    """Whether this process talks to people: the only one, or the first of a distributed run."""
    return os.environ.get("RANK", "0") == "0"


def say(text: str = "") -> None:
    """One line for people, on stderr, above the progress line if there is one."""
    if not speaks():
        return
    if _shown:
        _shown[-1].above(text)
    else:
        print(text, file=sys.stderr, flush=True)


class Progress:
    """How far something long has come: a context manager; `update` is cheap enough for every step.

    Args:
        total: amount of work in all, or None if nobody knows.
        unit: what is counted, such as "step" or "file".
        label: what is done, such as "train".
        start: work done before (by an earlier process); it does not count for the rate.
    """

    def __init__(
        self,
        total: int | None,
        unit: str = "step",
        label: str = "",
        *,
        start: int = 0,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.total, self.unit, self.label = total, unit, label
        self.done = self.start = start
        self.fields: dict[str, Any] = {}
        self._stream = stream or sys.stderr
        self._clock = clock
        self._began = clock()
        self._wait_s = FIRST_LINE_S
        self._next_line = self._began + FIRST_LINE_S
        self._spoke = False
        self._live: Any = None

    def __enter__(self) -> Progress:
        if speaks() and self._stream.isatty():
            self._live = _LiveLine(self, self._stream, beside=_shown[-1]._live if _shown else None)
        _shown.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        _shown.remove(self)
        if self._live is not None:
            self._live.show(self)
            self._live.stop()
        elif self._spoke:
            self._print(self.line())

    def update(self, done: int | None = None, *, advance: int = 1, **fields: Any) -> None:
        """Sets the amount done (or adds `advance`) and what to show beside it, such as loss=2.31."""
        self.done = self.done + advance if done is None else done
        self.fields.update(fields)
        if self._live is not None:
            self._live.show(self)
        elif speaks() and self._clock() >= self._next_line:
            self._wait_s = min(self._wait_s * 2, LONGEST_SILENCE_S)
            self._next_line = self._clock() + self._wait_s
            self._spoke = True
            self._print(self.line())

    def line(self) -> str:
        """`train  12/100 step · 0:41 left · loss 2.31`."""
        count = f"{self.done:,}" if self.total is None else f"{self.done:,}/{self.total:,}"
        parts = [f"{self.label}  {count} {self.unit}".strip()]
        elapsed = self._clock() - self._began
        work = self.done - self.start
        if self.total is not None and work > 0 and self.done < self.total:
            parts.append(f"{_duration(elapsed / work * (self.total - self.done))} left")
        elif elapsed >= 1:
            parts.append(_duration(elapsed))
        parts += [f"{name} {_short(value)}" for name, value in self.fields.items()]
        return " · ".join(parts)

    def above(self, text: str) -> None:
        """Prints a line above the progress line."""
        if self._live is None:
            self._print(text)
        else:
            self._live.above(text)

    def _print(self, text: str) -> None:
        print(text, file=self._stream, flush=True)


class _LiveLine:
    """One line of a terminal that rich redraws a few times a second; an inner one shares the display of its outer."""

    def __init__(self, progress: Progress, stream: TextIO, beside: _LiveLine | None) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, SpinnerColumn, TextColumn
        from rich.progress import Progress as Bar
        from rich.table import Column

        self._owner = beside is None
        self._bar = (
            beside._bar
            if beside
            else Bar(
                SpinnerColumn(),
                BarColumn(bar_width=12),
                TextColumn(
                    "{task.description}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis")
                ),
                console=Console(file=stream),
                refresh_per_second=5,
            )
        )
        self._task = self._bar.add_task(progress.line(), total=progress.total)
        if self._owner:
            self._bar.start()

    def show(self, progress: Progress) -> None:
        self._bar.update(
            self._task, description=progress.line(), completed=progress.done, total=progress.total
        )

    def above(self, text: str) -> None:
        self._bar.console.print(text, markup=False, highlight=False)

    def stop(self) -> None:
        if self._owner:
            self._bar.stop()
        else:
            self._bar.remove_task(self._task)


class Metrics:
    """Writes rows of numbers to metrics.jsonl and TensorBoard events of a run.

    Args:
        run: a locked run.
        after_step: the step that training resumes from; later rows and events of an earlier process are dropped.
    """

    def __init__(self, run: Run, after_step: int = 0) -> None:
        self.run = run
        self._after_step = after_step
        self._events: Any = None
        run.truncate_metrics(after_step)

    def row(self, step: int, **values: Any) -> None:
        """Writes the values of one step; numbers go to TensorBoard too, under the same names."""
        self.run.append_metrics({"step": step, **values})
        numbers = {name: value for name, value in values.items() if isinstance(value, int | float)}
        with writing(self.run.path / "tensorboard"):
            self._write_events(step, numbers)

    def close(self) -> None:
        """Forces what was written to disk."""
        self.run.sync()
        if self._events is not None:
            with writing(self.run.path / "tensorboard"):
                self._events.close()

    def __enter__(self) -> Metrics:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _write_events(self, step: int, numbers: dict[str, float]) -> None:
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog
        from tensorboardX.proto.summary_pb2 import Summary

        if self._events is None:
            folder = self.run.path / "tensorboard"
            folder.mkdir(exist_ok=True)
            # The name of an event file holds the time in seconds; two processes of one second must not share it.
            self._events = EventsWriter(str(folder / "events"), f".{os.getpid()}.{self._after_step}")
            # A start event tells TensorBoard to forget what an earlier process wrote for this step and later ones.
            start = SessionLog(status=SessionLog.START)
            self._events.write_event(
                Event(wall_time=time.time(), step=self._after_step + 1, session_log=start)
            )
        summary = Summary(
            value=[Summary.Value(tag=name, simple_value=float(x)) for name, x in numbers.items()]
        )
        self._events.write_event(Event(wall_time=time.time(), step=step, summary=summary))
        self._events.flush()


_shown: list[Progress] = []


def _duration(seconds: float) -> str:
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
