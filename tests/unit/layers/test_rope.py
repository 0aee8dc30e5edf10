"""Rotary frequencies of each scaling against their formulas, in float64 and by hand."""

from __future__ import annotations

import math

import pytest
import torch

from lmcraft.layers.positions import lengths, rotary_tables
from lmcraft.layers.rope import Rope, frequencies

WIDTH, BASE, TRAINED, FACTOR = 16, 10000.0, 100, 4.0
PLAIN = [BASE ** (-2 * i / WIDTH) for i in range(WIDTH // 2)]


def found(length: int = 1, **settings) -> list[float]:
    rope = Rope(factor=FACTOR, original_context=TRAINED, **settings)
    return frequencies(WIDTH, BASE, rope, torch.tensor([[length]])).flatten().tolist()


def test_linear_turns_slower_by_the_factor():
    """A difference would mean that stretched texts are read at wrong positions."""
    assert found(kind="linear") == pytest.approx([f / 4 for f in PLAIN], rel=1e-6)


@pytest.mark.parametrize("length", [1, 100, 101, 250, 400])
def test_dynamic_follows_the_length_of_the_text(length):
    """A difference would mean that long texts read as short ones, or that short ones are changed for nothing."""
    base = BASE
    if length > TRAINED:
        base *= (FACTOR * length / TRAINED - (FACTOR - 1)) ** (WIDTH / (WIDTH - 2))
    expected = [base ** (-2 * i / WIDTH) for i in range(WIDTH // 2)]
    assert found(length, kind="dynamic") == pytest.approx(expected, rel=1e-5)


def test_yarn_keeps_fast_channels_and_stretches_slow_ones():
    """A difference would mean another ramp than the paper's (arXiv 2309.00071, section 3.2)."""
    turns = [TRAINED * f / (2 * math.pi) for f in PLAIN]
    kept = found(kind="yarn", beta_fast=8.0, beta_slow=0.5)
    assert kept[0] == pytest.approx(PLAIN[0], rel=1e-6) and turns[0] > 8
    assert kept[-1] == pytest.approx(PLAIN[-1] / FACTOR, rel=1e-6) and turns[-1] < 0.5
    between = [round(k / f, 5) for k, f in zip(kept, PLAIN, strict=True)]
    assert between == sorted(between, reverse=True) and any(0.3 < share < 0.95 for share in between)


def test_yarn_sharpens_attention():
    """A failure would mean that long contexts blur: the gain belongs to the method."""
    rope = Rope(kind="yarn", factor=FACTOR, original_context=TRAINED)
    cos, sin = rotary_tables(torch.tensor([[0, 7]]), WIDTH, BASE, rope)
    gain = 0.1 * math.log(FACTOR) + 1
    assert float(cos[0, 0, 0, 0]) == pytest.approx(gain) and float(sin[0, 0, 0, 0]) == 0
    assert (cos.square() + sin.square()).sqrt().flatten().tolist() == pytest.approx([gain] * 32, rel=1e-5)
    assert rope.model_copy(update={"attention_factor": 1.0}).gain == 1.0


def test_llama3_by_hand():
    """A difference would mean that Llama 3.1 misreads long texts."""
    expected = []
    for f in PLAIN:
        wave = 2 * math.pi / f
        smooth = (TRAINED / wave - 1) / (4 - 1)
        share = (
            1.0 if wave < TRAINED / 4 else 1 / FACTOR if wave > TRAINED else (1 - smooth) / FACTOR + smooth
        )
        expected.append(f * share)
    assert found(kind="llama3") == pytest.approx(expected, rel=1e-5)
    assert len({round(e / f, 3) for e, f in zip(expected, PLAIN, strict=True)}) > 2  # all three cases occur


def test_each_document_of_a_row_has_its_own_length():
    """A failure would mean that under dynamic scaling a packed document reads otherwise than alone."""
    segments_BT = torch.tensor([[1, 1, 1, 2, 0, 0], [3, 3, 3, 3, 3, 3]])
    assert lengths(segments_BT).tolist() == [[3, 3, 3, 1, 2, 2], [6] * 6]


@pytest.mark.parametrize(
    "settings",
    [
        {"kind": "linear", "beta_fast": 16.0}, {"kind": "yarn", "low_freq_factor": 2.0},
        {"kind": "llama3", "low_freq_factor": 4.0}, {"kind": "linear", "factor": 0.5}, {"kind": "su"},
    ],
)  # fmt: skip
def test_settings_that_would_do_nothing_are_refused(settings):
    """A failure would mean that somebody tunes a number that no code reads."""
    with pytest.raises(ValueError):
        Rope(**({"factor": 2.0} | settings))
