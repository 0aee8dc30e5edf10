"""Progress for people and metrics for machines."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from lmcraft.core import log
from lmcraft.core.errors import UserError
from lmcraft.core.run import Run


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def lines(seconds: int, **settings: object) -> list[str]:
    """What a log file shows of work that takes one second a step."""
    clock, stream = Clock(), io.StringIO()
    with log.Progress(seconds, label="train", stream=stream, clock=clock, **settings) as progress:
        for step in range(1, seconds + 1):
            clock.now += 1
            progress.update(loss=1 / step)
    return stream.getvalue().splitlines()


def test_short_work_is_silent() -> None:
    """If this failed, every small thing would write a line into logs."""
    assert lines(1) == []


def test_a_log_file_gets_a_line_at_two_seconds_and_then_fewer_and_fewer() -> None:
    """If this failed, a person would wait without a sign, or a log of hours would be unreadable."""
    shown = lines(100)
    assert [line.split()[1] for line in shown] == ["2/100", "6/100", "14/100", "30/100", "62/100", "100/100"]
    assert shown[0] == "train  2/100 step · 1:38 left · loss 0.5"
    assert shown[-1] == "train  100/100 step · 1:40 · loss 0.01"
    assert len(lines(3600)) < 70


def test_the_rest_is_estimated_from_this_process_only() -> None:
    """If this failed, a resumed run would promise to end far too early, counting steps it did not take."""
    clock = Clock()
    progress = log.Progress(1000, stream=io.StringIO(), clock=clock, start=900)
    clock.now += 10
    progress.update(910)
    assert progress.line() == "910/1,000 step · 1:30 left"


def test_an_unknown_total_shows_the_time() -> None:
    """If this failed, counting without an end in sight would divide by None."""
    clock = Clock()
    progress = log.Progress(None, "file", "read", stream=io.StringIO(), clock=clock)
    clock.now += 4000
    progress.update(12)
    assert progress.line() == "read  12 file · 1:06:40"


def test_only_the_first_process_speaks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """If this failed, eight processes would write eight progress lines over each other."""
    monkeypatch.setenv("RANK", "1")
    assert lines(100) == []
    log.say("hello")
    monkeypatch.setenv("RANK", "0")
    log.say("hello")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "hello\n")


def test_a_terminal_shows_inner_and_outer_progress_and_lines_above() -> None:
    """If this failed, an evaluation inside training would break the display, or lines would be lost."""
    stream = Terminal()
    with log.Progress(2, label="train", stream=stream) as outer:
        with log.Progress(1, label="eval", stream=stream) as inner:
            inner.update(score=0.5)
            log.say("in [brackets] between")
        outer.update(2, loss=1.25)
    shown = stream.getvalue()
    assert "in [brackets] between" in shown and "eval" in shown and "train  2/2 step" in shown


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create(tmp_path / "a", "", command=["x"])


def test_metrics_go_to_the_log_and_to_tensorboard(run: Run) -> None:
    """If this failed, a curve would be missing in TensorBoard, or text would break it."""
    with log.Metrics(run) as metrics:
        metrics.row(1, loss=2.5, lr=1e-4, note="warm-up", tokens=64)
        metrics.row(2, loss=float("nan"))
    assert run.metrics() == [
        {"step": 1, "loss": 2.5, "lr": 1e-4, "note": "warm-up", "tokens": 64},
        {"step": 2, "loss": None},
    ]
    seen = {
        (event.step, value.tag): value.simple_value for event in events(run) for value in event.summary.value
    }
    assert (
        seen[1, "loss"] == 2.5 and seen[1, "tokens"] == 64 and (2, "loss") in seen and (1, "note") not in seen
    )


def test_a_resumed_run_continues_its_curves(run: Run) -> None:
    """If this failed, curves would show the steps after the last checkpoint twice."""
    with log.Metrics(run) as metrics:
        for step in (1, 2, 3):
            metrics.row(step, loss=1.0)
    with log.Metrics(run, after_step=1) as metrics:
        metrics.row(2, loss=0.5)
    assert run.metrics() == [{"step": 1, "loss": 1.0}, {"step": 2, "loss": 0.5}]
    restarts = [event.step for event in events(run) if event.HasField("session_log")]
    assert restarts == [1, 2], "TensorBoard drops earlier events from the step of a start event on"


def test_a_full_disk_under_metrics_is_told(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """If this failed, a disk that fills up during training would end in a traceback."""
    metrics = log.Metrics(run)
    metrics.row(1, loss=1.0)

    def full() -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(metrics._events, "flush", full)
    with pytest.raises(UserError, match="the disk is full"):
        metrics.row(2, loss=1.0)
    monkeypatch.undo()
    metrics.close()


def events(run: Run) -> list:
    """All TensorBoard events of a run, in the order of their files."""
    import struct

    from tensorboardX.proto.event_pb2 import Event

    found = []
    for file in sorted((run.path / "tensorboard").iterdir(), key=lambda path: path.name.split(".")[-1]):
        content, place = file.read_bytes(), 0
        while place < len(content):
            (length,) = struct.unpack_from("<Q", content, place)
            found.append(Event.FromString(content[place + 12 : place + 12 + length]))
            place += 16 + length
    return found
