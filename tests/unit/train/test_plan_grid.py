"""A small part of benchmarks/plan_grid.py: plans against real runs, each in a process of its own."""

from __future__ import annotations

import importlib.util
import platform
from pathlib import Path
from types import ModuleType

import pytest

FILE = Path(__file__).parents[3] / "benchmarks" / "plan_grid.py"
CASES = [
    "decoder-3x256 full 8x128",
    "decoder-6x256 lora 8x128 micro_batch_size=2",
    "decoder-6x256 lora 8x256 checkpointing=True",
    "encdec-2x256 freeze 16x64",
    "rnn-2x256 full 8x64 optim=adamw",
]


@pytest.fixture(scope="module")
def grid() -> ModuleType:
    """The benchmark as a module."""
    spec = importlib.util.spec_from_file_location("plan_grid", FILE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="plans are for the heap of glibc")
@pytest.mark.parametrize("name", CASES)
def test_plans_are_near_the_measured_peak(grid: ModuleType, name: str) -> None:
    """If this failed, `lmcraft plan` would say that a run fits which does not, or refuse one that does."""
    real = grid.measured(name)
    assert real is not None, f"{name} did not run"
    assert -0.05 <= grid.predicted(grid.cases()[name]) / real - 1 <= 0.15
