"""Steps on tensors without memory: lmcraft.train.rehearsal, ledger and weightless."""

from __future__ import annotations

import pytest
import torch

from lmcraft.models import decoder
from lmcraft.models import model as models
from lmcraft.stages import pretrain
from lmcraft.train import loop, optim
from lmcraft.train.ledger import GRADIENTS, OPTIMIZER, PARAMETERS
from lmcraft.train.rehearsal import Rehearsal, Rows, rehearse


def rehearsed(layers: int = 2, **settings) -> Rehearsal:
    with torch.device("meta"):
        model = models.build(decoder.Config(vocab=512, layers=layers, width=64, heads=2, context=32))
    config = loop.Config(**({"batch_size": 8, "lr": 1e-3, "precision": "fp32"} | settings))
    return rehearse(pretrain.build(pretrain.Config()), model, Rows(32), config)


def test_what_is_kept_is_counted_exactly() -> None:
    """If this failed, weights or averages would be missing from a plan, or counted twice (a tied head)."""
    found = rehearsed(optim=optim.Config(kind="adamw"))
    assert found.parts[PARAMETERS] == 4 * found.parameters
    assert found.parts[OPTIMIZER] == pytest.approx(8 * found.parameters, rel=1e-3)
    assert found.trained == found.parameters


def test_smaller_micro_batches_and_checkpointing_need_less() -> None:
    """If this failed, a plan would not see what accumulation and checkpointing save."""
    whole, parts = rehearsed(), rehearsed(micro_batch_size=2)
    again = rehearsed(checkpointing=True, layers=3)
    assert parts.live < whole.live and again.live < rehearsed(layers=3).live
    assert parts.parts.get(GRADIENTS, 0) > 0
    assert parts.operations == pytest.approx(whole.operations, rel=0.1)


def test_deep_models_are_extrapolated() -> None:
    """If this failed, a model of many layers would be planned as if it had few."""
    three, six, nine = (rehearsed(layers=n) for n in (3, 6, 9))
    assert nine.live - six.live == pytest.approx(six.live - three.live, rel=0.02)
    assert nine.operations - six.operations == pytest.approx(six.operations - three.operations, rel=0.02)


def test_planning_leaves_no_trace() -> None:
    """If this failed, a model would be changed by planning it, or modules would keep the plan's hooks."""
    model = models.build(decoder.Config(vocab=64, layers=1, width=16, heads=2, context=8))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    config = loop.Config(batch_size=2, lr=1e-3, precision="fp32")
    rehearse(pretrain.build(pretrain.Config()), model, Rows(8), config)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(
        parameter.grad is None and type(parameter) is torch.nn.Parameter for parameter in model.parameters()
    )
    assert torch.ones(2).sum().item() == 2
