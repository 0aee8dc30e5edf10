"""The number of tellings for half of the facts is read off the curve, and intervals are Wilson's."""

from __future__ import annotations

import pytest

from lmcraft.studies import lossy_knowledge as study


def test_half_known_lies_between_the_measured_ones() -> None:
    """If this failed, the study's headline number would not be that of its curve."""
    assert study.half_known({0: 0.0, 1: 0.0, 4: 0.25, 16: 0.75, 64: 1.0}) == pytest.approx(8)
    assert study.half_known({1: 0.0, 2: 0.4, 4: 0.5}) == pytest.approx(4)
    assert study.half_known({0: 0.02, 1: 0.6, 2: 1.0}) == 1
    assert study.half_known({1: 0.1, 2: 0.2}) is None
    assert study.half_known({1: 0.1, 2: 0.7, 4: 0.4, 8: 0.9}) < 2


def test_tellings_are_the_powers_of_two() -> None:
    """If this failed, the curve would lack its end."""
    assert study.tellings(1) == [1] and study.tellings(8) == [1, 2, 4, 8] and study.tellings(511)[-1] == 256


def test_the_interval_is_wilsons() -> None:
    """If this failed, the figure would promise more certainty than 60 facts give."""
    low, high = study.interval(0.5, 100)
    assert (low, high) == (pytest.approx(0.4038, abs=1e-4), pytest.approx(0.5962, abs=1e-4))
    assert study.interval(0.0, 10)[0] == 0 and study.interval(1.0, 10)[1] == pytest.approx(1)
    assert study.interval(0.0, 10)[1] == pytest.approx(0.2775, abs=1e-4)
