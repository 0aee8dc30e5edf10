"""A judge elsewhere: what it is told, what it may say, and that whatever it does becomes a sentence in bounded time."""

from __future__ import annotations

import http.server
import json
import socket
import threading

import pytest

from lmcraft.core.errors import UserError
from lmcraft.rewards import remote, reward
from lmcraft.rewards.reward import Answer

ANSWERS = [Answer([1], [2, 3], "fine", question="How?"), Answer([1], [2], "no", stopped=False)]


class Judge(http.server.BaseHTTPRequestHandler):
    """Says what its server was told to say, one thing after the other."""

    def do_POST(self) -> None:
        self.server.heard.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        says = self.server.says[min(len(self.server.heard), len(self.server.says)) - 1]
        if callable(says):
            says(self)
            return
        body = says if isinstance(says, bytes) else json.dumps(says).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        self.server.fetched.append(self.path)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"scores": [1, 1]}')

    def log_message(self, *_) -> None:
        """Nothing: the log of a test is no place for it."""


@pytest.fixture
def judge(monkeypatch):
    monkeypatch.setattr(remote, "PAUSE_S", 0.0)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Judge)
    server.daemon_threads = True
    server.heard, server.says, server.fetched = [], [], []
    server.url = f"http://127.0.0.1:{server.server_address[1]}/judge"
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def ask(judge, timeout_s: float = 5.0) -> list[float]:
    return reward.together([remote.Config(url=judge.url, timeout_s=timeout_s)], None)(ANSWERS)


def test_it_is_told_prompt_and_answer(judge):
    """A failure would mean that a judge sees less than it needs, or more than it was promised."""
    judge.says = [{"scores": [0.25, -1]}]
    assert ask(judge) == [0.25, -1.0]
    assert judge.heard == [
        {
            "answers": [
                {"prompt": "How?", "answer": "fine", "stopped": True},
                {"prompt": "", "answer": "no", "stopped": False},
            ]
        }
    ]


def refuses(handler) -> None:
    handler.send_error(503)


def hangs_up(handler) -> None:
    handler.close_connection = True
    handler.connection.shutdown(socket.SHUT_RDWR)


def breaks_off(handler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"scores"')
    handler.close_connection = True


def mumbles(handler) -> None:
    handler.wfile.write(b"not http at all\r\n\r\n")
    handler.close_connection = True


def points_elsewhere(handler) -> None:
    handler.send_response(302)
    handler.send_header("Location", "/elsewhere")
    handler.send_header("Content-Length", "0")
    handler.end_headers()


def sleeps(handler) -> None:
    handler.server.wake.wait(20)
    handler.close_connection = True


WRONG = {
    "no scores": {"points": [1, 2]},
    "too few": {"scores": [1]},
    "too many": {"scores": [1, 2, 3]},
    "a word": {"scores": [1, "good"]},
    "nothing": {"scores": [1, None]},
    "a list": [1, 2],
    "no json": b"<html>",
    "no utf-8": b"\xff\xfe{",
    "deep": b"[" * 100_000,
    "a huge number": b'{"scores": [1, ' + b"9" * 400 + b"]}",
    "an error": refuses,
    "hangs up": hangs_up,
    "breaks off": breaks_off,
    "no http": mumbles,
    "points elsewhere": points_elsewhere,
}


@pytest.mark.parametrize("what", WRONG)
def test_whatever_goes_wrong_is_told(judge, what):
    """A failure would mean a traceback in the middle of training, a wait without end, or a call elsewhere."""
    judge.says = [WRONG[what]]
    with pytest.raises(UserError, match="gives no scores") as told:
        ask(judge)
    assert judge.url in str(told.value) and len(judge.heard) == remote.TRIES and not judge.fetched


def test_what_was_wrong_once_is_asked_again(judge):
    """A failure would mean that a judge which restarts ends hours of training."""
    judge.says = [refuses, hangs_up, {"scores": [1, 2]}]
    assert ask(judge) == [1.0, 2.0] and len(judge.heard) == 3


def test_a_judge_that_sleeps_is_not_waited_for(judge):
    """A failure would mean that training stands still without a word."""
    judge.wake = threading.Event()
    judge.says = [sleeps]
    with pytest.raises(UserError, match="timed out"):
        ask(judge, timeout_s=0.1)
    judge.wake.set()


def test_nobody_there_is_told(judge):
    """A failure would mean a traceback where the address would help."""
    judge.shutdown()
    judge.server_close()
    with pytest.raises(UserError, match="gives no scores"):
        ask(judge)


def test_no_number_is_told(judge):
    """JSON of Python knows NaN; a failure would mean that it is written into every weight."""
    judge.says = [b'{"scores": [1, NaN]}']
    with pytest.raises(UserError, match="is nan"):
        ask(judge)


def test_a_name_that_is_no_address_is_refused():
    """A failure would mean that a file, or a program, could be read in the place of a judge."""
    for url in ("file:///etc/hostname", "judge", "ftp://here"):
        with pytest.raises(ValueError, match="url"):
            remote.Config(url=url)
