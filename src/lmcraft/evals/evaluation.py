"""What an evaluation is: a language model and records in, named numbers and every sample out.

Each file of this folder has a `Config` and `run(model, records, config) → Result`.

Proved by tests/contract/test_evals.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Result:
    """Numbers, the settings that they depend on, and one entry a sample."""

    kind: str
    metrics: dict[str, float]
    settings: dict[str, Any]
    samples: list[dict[str, Any]] = field(default_factory=list)
