"""Memory in closed form: lmcraft.train.footprint."""

from __future__ import annotations

from lmcraft.train import footprint


def test_the_example_of_seven_billion_parameters() -> None:
    """If this failed, the plan would disagree with the arithmetic that everybody knows: 14 + 14 + 28 = 56 GB."""
    found = footprint.training(7_000_000_000, number_bytes=2)
    assert (found.parameters, found.gradients, found.optimizer) == (14 * 10**9, 14 * 10**9, 28 * 10**9)
    assert found.total == 56 * 10**9


def test_frozen_parameters_have_neither_gradients_nor_averages() -> None:
    """If this failed, an adapter would seem to need as much as full tuning."""
    found = footprint.training(1000, trained=10, number_bytes=4)
    assert (found.parameters, found.gradients, found.optimizer) == (4000, 40, 80)


def test_shares_and_copies() -> None:
    """If this failed, more processes would seem to need less (ddp) or as much (fsdp) memory each."""
    whole = footprint.training(1001)
    assert footprint.among(whole, 4, "fsdp", largest=100).total == -(-4004 // 4) * 2 + 8008 // 4 + 100
    assert footprint.among(whole, 4, "ddp", bucket=1 << 20).total == whole.total + whole.gradients
    assert footprint.among(whole, 1, "fsdp", largest=100).total == whole.total


def test_feedback_beside_an_adapter_needs_no_second_policy() -> None:
    """If this failed, the plan of PPO would count the reference twice, or not at all."""
    alone = footprint.feedback(1000, 500, rows=2, length=10, remembered_a_token=64)
    beside = footprint.feedback(1000, 500, rows=2, length=10, remembered_a_token=64, adapter=10)
    assert alone.reference == 4000 and beside.reference == 0
    assert alone.policy.total == 16000 and beside.policy.total == 4040 + 40 + 80
    assert alone.rollouts == beside.rollouts == 20 * (33 + 64)
