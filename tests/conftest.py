"""What every test stands on: no network, a store of its own, and the command line as a function."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

# Set before any test module is imported, and inherited by the processes that tests start.
os.environ["LMCRAFT_HOME"] = tempfile.mkdtemp(prefix="lmcraft-home-")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["MPLBACKEND"] = "Agg"
os.environ["NO_COLOR"] = "1"

ROOT = Path(__file__).resolve().parents[1]
Lmcraft = Callable[..., "subprocess.CompletedProcess[str]"]


def pytest_configure(config: pytest.Config) -> None:
    try:
        from hypothesis import settings
    except ImportError:
        return
    # Derandomized: a failure is the same on every machine. No deadline: slow machines are not wrong.
    settings.register_profile("lmcraft", deadline=None, derandomize=True, database=None)
    settings.load_profile("lmcraft")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for_gpu = [item for item in items if item.get_closest_marker("gpu")]
    if not for_gpu:
        return
    import torch

    if not torch.cuda.is_available():
        for item in for_gpu:
            item.add_marker(pytest.mark.skip(reason="needs an accelerator"))


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that reaches for another machine fails, whether that machine would have answered or not."""
    connect = socket.socket.connect

    def connect_here(self: socket.socket, address: object) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6):
            host = address[0] if isinstance(address, tuple) else address
            assert host in ("127.0.0.1", "::1", "localhost"), f"a test tried to connect to {host}"
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", connect_here)


@pytest.fixture
def lmcraft(tmp_path: Path) -> Lmcraft:
    """Runs `lmcraft ARGUMENTS…` as a user would, in a process and an empty folder of its own."""

    def call(
        *arguments: object, timeout_s: float = 300, **settings: object
    ) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "lmcraft", *map(str, arguments)]
        return subprocess.run(
            command,
            **{"cwd": tmp_path, "capture_output": True, "text": True, "timeout": timeout_s, **settings},
        )

    return call
