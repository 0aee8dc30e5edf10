"""Which precision is chosen, and that it is what forward and loss run in."""

from __future__ import annotations

import pytest
import torch

from lmcraft.train import precision

CPU = torch.device("cpu")


@pytest.mark.parametrize("half,full,expected", [(1.0, 2.0, "bf16"), (1.0, 1.4, "fp32"), (3.0, 1.0, "fp32")])
def test_auto_takes_bfloat16_only_where_it_is_clearly_faster(half, full, expected, monkeypatch):
    """A failure would mean that processors without bfloat16 instructions train several times slower."""
    seconds = {torch.bfloat16: half, torch.float32: full}
    monkeypatch.setattr(precision, "_seconds", lambda dtype, device: seconds[dtype])
    assert precision.choose("auto", CPU) == expected


@pytest.mark.parametrize("asked", ["fp32", "bf16"])
def test_what_is_asked_for_is_taken(asked, monkeypatch):
    """A failure would mean that the option is ignored, or measured although nobody asked."""
    monkeypatch.setattr(precision, "_seconds", lambda *_: pytest.fail("measured"))
    assert precision.choose(asked, CPU) == asked


def test_auto_measures_and_answers():
    """A failure would mean that the default cannot start on this machine."""
    assert precision.choose("auto", CPU) in ("fp32", "bf16")


@pytest.mark.parametrize("seconds,products", [(1.0, 2), (0.001, 6)])
def test_slow_numbers_are_soon_known_to_be_slow(seconds, products, monkeypatch):
    """A failure would mean that each training waits for numbers that it will not use, or judges by its first one."""
    read: list[float] = []
    monkeypatch.setattr(precision.time, "perf_counter", lambda: read.append(0.0) or seconds * len(read))
    assert precision._seconds.__wrapped__(torch.float32, CPU) == pytest.approx(seconds)
    assert len(read) == 2 * products


@pytest.mark.parametrize("name,expected", [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_products_run_in_it_over_float32_weights(name, expected):
    """A failure would mean that weights lose digits, or that the option does nothing."""
    layer = torch.nn.Linear(4, 4)
    with precision.computing(name, CPU):
        out = layer(torch.ones(2, 4))
    assert out.dtype == expected and layer.weight.dtype == torch.float32
    out.float().sum().backward()
    assert layer.weight.grad.dtype == torch.float32
