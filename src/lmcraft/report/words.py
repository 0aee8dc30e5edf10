"""How numbers are written for people: counts, shares, durations, sizes; a dash for what is not known.

Proved by tests/unit/report/test_words.py.
"""

from __future__ import annotations

import math
from typing import Any

UNKNOWN = "–"


def number(value: Any) -> float | None:
    """The value if it is a finite number, else None: the logs of a run write NaN as null."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return value


def count(value: Any) -> str:
    """12,345."""
    found = number(value)
    return UNKNOWN if found is None else f"{round(found):,}"


def short(value: Any) -> str:
    """847,123, 4.56 million, 7 billion: large numbers with three digits that matter."""
    found = number(value)
    if found is None:
        return UNKNOWN
    if abs(found) < 999_500:
        return f"{round(found):,}"
    return _scaled(found, (("trillion", 1e12), ("billion", 1e9), ("million", 1e6)))


def axis(value: float) -> str:
    """1.5M: a number beside an axis, where there is little room."""
    for factor, letter in ((1e9, "B"), (1e6, "M")):
        if abs(value) >= factor:
            return f"{value / factor:g}{letter}"
    return f"{value / 1000:g}k" if abs(value) >= 1000 else f"{value:g}"


def decimal(value: Any) -> str:
    """Four digits that matter, never in powers of ten where people would not write them."""
    found = number(value)
    if found is None:
        return UNKNOWN
    if found and not 1e-4 <= abs(found) < 1e6:
        return f"{found:.3g}"
    if isinstance(found, int) or abs(found) >= 1000:
        return f"{round(found):,}"
    return f"{found:.4g}"


def digits(value: Any) -> str:
    """Three digits that matter, or all digits of a large number."""
    found = number(value)
    return decimal(found) if found is None or abs(found) >= 1000 else f"{found:.3g}"


def scientific(value: Any, places: int = 2) -> str:
    """6.0 × 10⁻¹⁰ for the very small and the very large, else as few digits as matter."""
    found = number(value)
    if found is None:
        return UNKNOWN
    if found == 0 or 1e-3 <= abs(found) < 1e6:
        return f"{found:.{places}g}"
    factor, _, power = f"{found:.{places - 1}e}".partition("e")
    return f"{factor}\u00a0×\u00a010{raised(int(power))}"


def raised(power: int) -> str:
    """⁻¹⁰: an exponent in characters that every font has."""
    return str(power).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def nats(value: Any) -> str:
    """A loss, with three decimals."""
    found = number(value)
    return UNKNOWN if found is None else f"{found:.3f}"


def perplexity(loss: Any) -> str:
    """exp(loss); a loss so large that it says nothing has none."""
    found = number(loss)
    return UNKNOWN if found is None or found > 30 else digits(math.exp(found))


def share(part: Any, whole: Any) -> str:
    """12.3 %; never 0 % or 100 % unless it is exactly that."""
    top, bottom = number(part), number(whole)
    if top is None or not bottom:
        return UNKNOWN
    percent = 100 * top / bottom
    if percent in (0, 100):
        return f"{percent:.0f} %"
    if percent < 0.1:
        return "under 0.1 %"
    return "over 99.9 %" if 99.9 < percent < 100 else f"{percent:.1f} %"


def size(value: Any) -> str:
    """1.24 GB, in powers of 1000."""
    found = number(value)
    if found is None:
        return UNKNOWN
    if found < 999.5:
        return f"{round(found)} bytes"
    return _scaled(found, (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)))


def _scaled(value: float, units: tuple[tuple[str, float], ...]) -> str:
    """Three digits and the largest unit that fits; 999.9 of one is rounded to 1 of the next."""
    unit, factor = next(((u, f) for u, f in units if abs(value) >= 0.9995 * f), units[-1])
    return f"{value / factor:.3g} {unit}"


def duration(value: Any) -> str:
    """40 ms, 8.3 s, 5 min 12 s, 2 h 5 min, 3 d 4 h; the unit stays on the line of its number."""
    found = number(value)
    if found is None:
        return UNKNOWN
    if found < 0.9995:
        return f"{round(1000 * found)}\u00a0ms"
    if found < 60:
        return f"{found:.1f}\u00a0s" if found < 10 else f"{min(round(found), 59)}\u00a0s"
    minutes, seconds = divmod(round(found), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = [(days, "d"), (hours, "h"), (minutes, "min"), (seconds, "s")]
    first = next(place for place, (amount, _) in enumerate(parts) if amount)
    return " ".join(f"{amount}\u00a0{unit}" for amount, unit in parts[first : first + 2] if amount)


def plural(value: Any, noun: str) -> str:
    """1 step, 2 steps."""
    return f"{count(value)} {noun}" + ("" if value == 1 else "s")
