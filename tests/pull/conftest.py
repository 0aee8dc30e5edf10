"""Servers on this machine that stand in for others, and a store of its own for each test."""

from __future__ import annotations

import http.server
import json
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lmcraft.cli.main import run

Answer = tuple[int, dict[str, str], bytes]


class Server:
    """A server whose answers a test decides.

    Attributes:
        answer: gets path and headers of a request, returns status, headers and body.
        cuts: after how many bytes of a body the connection breaks, for the next requests in turn.
        requests: path and headers of every request so far.
    """

    def __init__(self, answer: Callable[[str, dict[str, str]], Answer]) -> None:
        self.answer, self.cuts, self.requests = answer, [], []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                outer.requests.append((self.path, dict(self.headers)))
                status, headers, body = outer.answer(self.path, dict(self.headers))
                self.send_response(status)
                for name, value in {"Content-Length": str(len(body)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                cut = outer.cuts.pop(0) if outer.cuts else None
                self.wfile.write(body[:cut])
                self.close_connection = True

            def log_message(self, *_: object) -> None:
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.host = f"127.0.0.1:{self.http.server_address[1]}"
        self.url = f"http://{self.host}"
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def ranges(self) -> list[str | None]:
        """What every request asked for of its file."""
        return [headers.get("Range") for _, headers in self.requests]


def part_of(content: bytes, headers: dict[str, str]) -> Answer:
    """The answer of a server that honours Range requests."""
    asked = re.fullmatch(r"bytes=(\d+)-", headers.get("Range", ""))
    if not asked:
        return 200, {}, content
    start = int(asked[1])
    if start >= len(content):
        return 416, {}, b""
    return 206, {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"}, content[start:]


@pytest.fixture
def ranged() -> Callable[[bytes, dict[str, str]], Answer]:
    return part_of


@pytest.fixture
def served() -> Iterator[Callable[..., Server]]:
    """Starts servers, and ends them after the test."""
    servers: list[Server] = []

    def start(answer: Callable[[str, dict[str, str]], Answer]) -> Server:
        servers.append(Server(answer))
        return servers[-1]

    yield start
    for server in servers:
        server.http.shutdown()
        server.http.server_close()


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty store, and an empty folder to stand in."""
    monkeypatch.setenv("LMCRAFT_HOME", str(tmp_path / "home"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "home"


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str]) -> Callable[..., object]:
    """Runs the command line; returns its JSON document, or all it said."""

    def call(*arguments: object, code: int = 0) -> object:
        capsys.readouterr()
        ended = run([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        assert ended == code, out + err
        assert "Traceback" not in err
        return json.loads(out) if "--json" in arguments else out + err

    return call
