"""Which runs a comparison consists of."""

from __future__ import annotations

import pytest

from lmcraft.compare import grid
from lmcraft.core.errors import UserError


def test_every_combination_is_a_run_and_seeds_are_repetitions():
    """A failure would mean that a combination is missing, or that a seed is compared as if it were a method."""
    found = grid.read(["adapter.kind=lora,none", "train.lr=1e-3", "seed=1,2", "adapter.rank=2,4"])
    assert found.shared == ["train.lr=1e-3"]
    assert len(found.trials) == 8 and {trial.seed for trial in found.trials} == {"1", "2"}
    assert found.trials[0].arguments == ["adapter.kind=lora", "adapter.rank=2", "seed=1"]
    assert found.trials[0].label == "lora, rank 2"
    assert len({trial.slug for trial in found.trials}) == 8


def test_commas_inside_brackets_and_quotes_do_not_part_values():
    """A failure would mean that one list is taken for two settings."""
    assert grid.values('[1,2],{a: 1, b: 2},"x, y"') == ["[1,2]", "{a: 1, b: 2}", '"x, y"']
    assert grid.values("") == [""]


@pytest.mark.parametrize(("asked", "what"), [
    (["train.lr=1e-3"], "nothing to compare"), (["seed=1,2"], "nothing to compare"), (["a=1,1"], "given twice"),
    ([f"{key}=1,2,3,4,5,6,7,8,9,10,11" for key in "abc"], "1,331 runs"), (["a=x/y,x|y"], "same directory"),
])  # fmt: skip
def test_what_cannot_be_compared_is_refused(asked, what):
    """A failure would mean hours of runs that tell nothing, or two that write over each other."""
    with pytest.raises(UserError, match=what):
        grid.read(asked)
