"""The scaling study fits the line that it says, and compares with a floor that no model can go below."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch

from lmcraft.data.language import Language
from lmcraft.studies import scaling, stream


def test_a_power_law_is_found_again() -> None:
    """If this failed, exponent, R² and prediction would be those of another line."""
    sizes = [1000, 4000, 16000, 64000]
    law = scaling.fit(sizes, [3 * n**-0.25 for n in sizes])
    assert (
        law.alpha == pytest.approx(0.25)
        and math.exp(law.intercept) == pytest.approx(3)
        and law.r2 == pytest.approx(1)
    )
    assert law.excess(256000) == pytest.approx(3 * 256000**-0.25)
    bent = scaling.fit(sizes, [1.0, 0.9, 0.5, 0.49])
    assert 0.5 < bent.r2 < 0.98


def test_the_floor_is_below_every_guess_and_reached_by_the_truth() -> None:
    """If this failed, the loss above the entropy would be of another text than the loss."""
    language = Language(words=6, classes=2, seed=0)
    config = scaling.Config(context=30, words=6, classes=2)
    held = stream.held_out(partial(scaling.batch, config, language), 50, 0)
    least = scaling.floor(language, held)
    counts_V = torch.bincount(held.targets_BT.flatten(), minlength=27).float()
    odds_V = counts_V / counts_V.sum()
    alone = float(-torch.special.xlogy(odds_V, odds_V).sum())
    assert 0 < least < alone
    assert least == pytest.approx(language.entropy, rel=0.15)


def test_all_sizes_read_the_same_text() -> None:
    """If this failed, a larger model could be better because it read something else."""
    language = Language(words=6, classes=2, seed=0)
    config = scaling.Config(context=12, words=6, classes=2)
    made = [stream.Stream(partial(scaling.batch, config, language), 4, 0).next().tokens_BT for _ in range(2)]
    assert torch.equal(*made)
