"""The enumerable world of tests/reinforce, with answers of at most two tokens."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

FILE = Path(__file__).resolve().parents[2] / "reinforce" / "conftest.py"


@pytest.fixture(scope="session")
def world():
    torch.set_num_threads(1)
    spec = importlib.util.spec_from_file_location("lmcraft_tests_world", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.World(longest=2)
