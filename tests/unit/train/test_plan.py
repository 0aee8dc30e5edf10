"""A plan: bytes by what they are for, and the time of a step."""

from __future__ import annotations

import pytest
import torch

from lmcraft.models import decoder
from lmcraft.models import model as models
from lmcraft.stages import pretrain
from lmcraft.train import loop, optim
from lmcraft.train.plan import GATHERED, plan
from lmcraft.train.rehearsal import Rows


def planned(ranks: int = 1, sharded: bool = False):
    """The plan of a tiny decoder."""
    with torch.device("meta"):
        model = models.build(decoder.Config(vocab=256, layers=2, width=32, heads=2, context=32))
    config = loop.Config(batch_size=8, lr=1e-3, precision="fp32", optim=optim.Config(kind="adamw"))
    return plan(pretrain.build(pretrain.Config()), model, Rows(32), config, ranks, sharded)


def test_the_peak_is_the_sum_of_its_parts():
    """A failure would mean that the table does not explain its last line."""
    found = planned()
    assert found.peak == sum(found.parts.values()) and found.parts["parameters"] == 4 * found.parameters
    assert found.seconds(1e9) == pytest.approx(found.operations / 1e9)


def test_more_processes_hold_less_of_what_is_shared():
    """A failure would mean that FSDP is planned as if every process held everything."""
    alone, together, shared = planned(), planned(2), planned(2, sharded=True)
    assert together.parts["parameters"] == alone.parts["parameters"]
    assert shared.parts["parameters"] < alone.parts["parameters"] and shared.parts[GATHERED] > 0
    assert together.operations == pytest.approx(alone.operations, rel=0.1)
