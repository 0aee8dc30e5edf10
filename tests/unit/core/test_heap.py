"""The C library's heap set up for training: lmcraft.core.heap."""

from __future__ import annotations

import os
import sys

import pytest

from lmcraft.core import heap


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[tuple]:
    """What would be started in the place of this process."""
    calls: list[tuple] = []
    monkeypatch.setattr(heap.os, "execve", lambda *arguments: calls.append(arguments))
    monkeypatch.setattr(heap.platform, "libc_ver", lambda: ("glibc", "2.36"))
    return calls


def test_a_program_starts_anew_with_the_same_words(
    started: list[tuple], monkeypatch: pytest.MonkeyPatch
) -> None:
    """If this failed, `lmcraft train` would lose its arguments, or train with twice the memory."""
    monkeypatch.delenv(heap.VARIABLE, raising=False)
    heap.restart()
    ((program, words, environment),) = started
    assert program == sys.executable and words[1:] == sys.orig_argv[1:]
    assert (
        environment[heap.VARIABLE] == "glibc.malloc.tcache_count=0"
        and environment["PATH"] == os.environ["PATH"]
    )


def test_it_does_so_once_and_never_against_the_user(
    started: list[tuple], monkeypatch: pytest.MonkeyPatch
) -> None:
    """If this failed, a command would start itself for ever, or overwrite settings of the user's own."""
    for given in (heap.without_cache()[heap.VARIABLE], "glibc.malloc.check=1"):
        monkeypatch.setenv(heap.VARIABLE, given)
        heap.restart()
    monkeypatch.delenv(heap.VARIABLE)
    monkeypatch.setattr(heap.platform, "libc_ver", lambda: ("", ""))
    heap.restart()
    assert not started


def test_other_tunables_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """If this failed, what the user has set for other parts of the C library would be lost."""
    monkeypatch.setenv(heap.VARIABLE, "glibc.cpu.x86_shstk=off")
    assert heap.without_cache()[heap.VARIABLE] == "glibc.cpu.x86_shstk=off:glibc.malloc.tcache_count=0"


def test_memory_settings_are_harmless_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """If this failed, training would not start on a system without glibc."""
    assert heap.keep_freed_memory() in (True, False)

    def no_library(_: str) -> None:
        raise OSError("not found")

    monkeypatch.setattr(heap.ctypes, "CDLL", no_library)
    assert heap.keep_freed_memory.__wrapped__() is False
