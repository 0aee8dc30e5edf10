"""Which of the compared settings is recommended, and why."""

from __future__ import annotations

from lmcraft.compare import page
from lmcraft.compare.grid import Trial
from lmcraft.compare.trials import Outcome
from lmcraft.compare.verdict import judge


def runs(kind: str, losses: list[float], memory: int, seconds: float = 60.0) -> list[Outcome]:
    """The runs of one setting, a seed each."""
    made = []
    for seed, loss in enumerate(losses):
        trial = Trial((("adapter.kind", kind),), str(seed))
        made.append(Outcome(trial, f"runs/{kind}-{seed}", loss, 1000, memory, seconds, 4000))
    return made


def test_the_cheapest_of_those_as_good_as_the_best_is_taken():
    """A failure would mean that chance between seeds decides, or that memory is spent on nothing."""
    found = judge([
        *runs("none", [2.00, 2.04, 1.98], 900), *runs("lora", [2.02, 1.99, 2.03], 500),
        *runs("freeze", [2.5, 2.6, 2.55], 300),
    ])  # fmt: skip
    assert found.chosen.label == "lora" and "44% less peak memory" in found.reason and "none" in found.reason
    assert found.front == ["none", "lora", "freeze"]


def test_a_clear_winner_is_taken_at_any_cost():
    """A failure would mean that a method that learns less is recommended because it is small."""
    found = judge([*runs("none", [1.0, 1.01], 900), *runs("lora", [2.0, 2.01], 500)])
    assert found.chosen.label == "none" and "by more than chance" in found.reason


def test_equal_memory_is_decided_by_time():
    """A failure would mean that a percent of memory outweighs hours."""
    found = judge([*runs("slow", [1.0, 1.1], 500, 600.0), *runs("fast", [1.02, 1.1], 505, 60.0)])
    assert found.chosen.label == "fast"


def test_what_another_beats_in_everything_is_not_on_the_front():
    """A failure would mean that the figure recommends what nobody should take."""
    found = judge([*runs("a", [1.0, 1.1], 500), *runs("b", [1.2, 1.3], 600)])
    assert found.front == ["a"]


def test_runs_that_failed_are_told_and_do_not_count():
    """A failure would mean that a comparison hides a method that could not be trained."""
    broken = Outcome(
        Trial((("adapter.kind", "x"),), "1"), "runs/x", failure="the rank is larger than the layer"
    )
    outcomes = [*runs("a", [1.0], 500), broken]
    verdict = judge(outcomes)
    told = page.finding(verdict, outcomes)
    assert [group.label for group in verdict.groups] == ["a"]
    assert any("larger than the layer" in limit for limit in told.limits)
    assert any("One seed" in limit for limit in told.limits)
