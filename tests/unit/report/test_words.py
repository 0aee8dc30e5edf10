"""Numbers are written as people read them, and never as something they are not."""

from __future__ import annotations

import pytest

from lmcraft.report import words


@pytest.mark.parametrize(
    ("write", "value", "written"),
    [
        (words.count, 12345.0, "12,345"),
        (words.short, 847_123, "847,123"),
        (words.short, 999_960, "1 million"),
        (words.short, 3_412_224, "3.41 million"),
        (words.short, 7e9, "7 billion"),
        (words.axis, 1500.0, "1.5k"),
        (words.axis, 2e6, "2M"),
        (words.axis, 0.5, "0.5"),
        (words.decimal, 0.0005, "0.0005"),
        (words.decimal, 1.25e-5, "1.25e-05"),
        (words.decimal, 0.0, "0"),
        (words.decimal, 54321, "54,321"),
        (words.decimal, 1 / 3, "0.3333"),
        (words.nats, 2, "2.000"),
        (words.perplexity, 0, "1"),
        (words.perplexity, 4.182, "65.5"),
        (words.perplexity, 9.0, "8,103"),
        (words.perplexity, 1000.0, "–"),
        (words.size, 512, "512 bytes"),
        (words.size, 999_960_000, "1 GB"),
        (words.size, 1_312_000_000, "1.31 GB"),
        (words.duration, 0.04, "40\u00a0ms"),
        (words.duration, 59.9, "59\u00a0s"),
        (words.duration, 60, "1\u00a0min"),
        (words.duration, 312.4, "5\u00a0min 12\u00a0s"),
        (words.duration, 7500, "2\u00a0h 5\u00a0min"),
        (words.duration, 90_000, "1\u00a0d 1\u00a0h"),
    ],
)
def test_numbers_in_words(write, value, written: str) -> None:
    """If this failed, a reader would see a wrong size, or one like 1e+03 GB."""
    assert write(value) == written


@pytest.mark.parametrize("value", [None, float("nan"), float("inf"), "12", True, [], {}])
def test_what_is_not_a_number_is_a_dash(value) -> None:
    """If this failed, a run with NaN in its log would break its page or show "nan"."""
    for write in (
        words.count, words.short, words.decimal, words.digits, words.nats, words.perplexity, words.size, words.duration,
    ):  # fmt: skip
        assert write(value) == "–"
    assert words.share(value, 10) == words.share(1, value) == "–"


def test_shares_are_never_rounded_to_none_or_all() -> None:
    """If this failed, one padded row among a million would be reported as no padding at all."""
    assert [words.share(n, 100_000) for n in (0, 1, 25_000, 99_999, 100_000)] == [
        "0 %", "under 0.1 %", "25.0 %", "over 99.9 %", "100 %",
    ]  # fmt: skip
    assert words.share(1, 0) == "–"


def test_one_and_many() -> None:
    """If this failed, the page would say "1 steps"."""
    assert words.plural(1, "step") == "1 step" and words.plural(1000, "step") == "1,000 steps"
