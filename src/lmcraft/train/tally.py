"""Means of what a stage sees while it computes its loss, over all micro-batches of a step, for the log.

Proved by tests/unit/train/test_tally.py.
"""

from __future__ import annotations

from collections import Counter

from torch import Tensor


class Tally:
    """Running means by name; `told` gives them and begins anew."""

    def __init__(self) -> None:
        self._sums: Counter[str] = Counter()
        self._counts: Counter[str] = Counter()

    def add(self, **numbers: Tensor) -> None:
        """Adds numbers of any shape to the mean of their name."""
        for name, number in numbers.items():
            self._sums[name] += float(number.detach().sum())
            self._counts[name] += number.numel()

    def told(self) -> dict[str, float]:
        """Means since the last call."""
        found = {name: self._sums[name] / count for name, count in self._counts.items() if count}
        self._sums.clear()
        self._counts.clear()
        return found
