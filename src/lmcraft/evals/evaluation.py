"""What an evaluation is: a language model and records in, named numbers and every sample out.

Each file of this folder has a `Config` and `run(model, records, config) → Result`.

Proved by tests/contract/test_evals.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Result:
    """Numbers, the settings that they depend on, one entry a sample, and tables: a name → `columns` and `rows`."""

    kind: str
    metrics: dict[str, float]
    settings: dict[str, Any]
    samples: list[dict[str, Any]] = field(default_factory=list)
    tables: dict[str, dict[str, list]] = field(default_factory=dict)
