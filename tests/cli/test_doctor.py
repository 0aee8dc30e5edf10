"""`lmcraft doctor` looks at the machine."""

from __future__ import annotations

import json

import pytest

from lmcraft.cli import doctor


def test_it_reports_the_machine(lmcraft) -> None:
    """If this failed, a user could not find out why something is slow or missing."""
    done = lmcraft("doctor", "--json")
    assert done.returncode == 0, done.stderr
    found = {row["name"]: row for row in json.loads(done.stdout)["findings"]}
    assert {"python", "cores", "memory", "disk here", "torch", "fp32", "bf16", "strace"} <= found.keys()
    assert "GFLOP/s" in found["fp32"]["found"]


def test_what_is_missing_has_a_price(monkeypatch: pytest.MonkeyPatch) -> None:
    """If this failed, the doctor would say that something is missing but not why that matters."""
    monkeypatch.setattr(doctor, "find_spec", lambda _: None)
    monkeypatch.setattr(doctor.shutil, "which", lambda _: None)
    missing = [*doctor._packages(), *doctor._programs()]
    assert missing and all(item.found == "missing" and item.cost for item in missing)
    assert "pip install 'lmcraft[data]'" in next(item.cost for item in missing if item.name == "pyarrow")
