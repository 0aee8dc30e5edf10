"""What this machine offers."""

from __future__ import annotations

from pathlib import Path

import pytest

from lmcraft.core import device
from lmcraft.core.errors import UserError


def test_a_container_quota_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """If this failed, a container with 2 of 64 cores would start 64 threads, and one with 1 GiB plan for 256."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(device, "_CGROUP", tmp_path)
    monkeypatch.setattr(device.os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    assert device.threads() == 64
    for quota, cores in (("max 100000", 64), ("150000 100000", 2), ("50000 100000", 1)):
        (tmp_path / "cpu.max").write_text(quota + "\n")
        assert device.threads() == cores
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert device.threads() == 5

    whole = device.memory_bytes()
    (tmp_path / "memory.max").write_text("max\n")
    assert device.memory_bytes() == whole
    (tmp_path / "memory.max").write_text("1048576\n")
    assert device.memory_bytes() == 1048576


def test_the_peak_is_in_bytes() -> None:
    """If this failed, measured memory would be wrong by a factor of 1024."""
    before = device.peak_memory_bytes()
    block = bytearray(300 << 20)
    block[:: 1 << 12] = b"x" * len(block[:: 1 << 12])
    assert before < 100 << 30 and device.peak_memory_bytes() >= 300 << 20


def test_devices_by_name() -> None:
    """If this failed, a typo or a missing GPU would end in a traceback from torch."""
    assert device.device("cpu").type == "cpu"
    assert device.device().type in ("cpu", "cuda", "mps")
    with pytest.raises(UserError, match="'cpuu' is not a device"):
        device.device("cpuu")
    with pytest.raises(UserError, match="no device 'cuda:99'"):
        device.device("cuda:99")


def test_the_home_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """If this failed, tests and users with a small home directory could not move the store."""
    monkeypatch.setenv("LMCRAFT_HOME", str(tmp_path))
    assert device.home() == tmp_path
    monkeypatch.delenv("LMCRAFT_HOME")
    assert device.home() == Path.home() / ".cache" / "lmcraft"
