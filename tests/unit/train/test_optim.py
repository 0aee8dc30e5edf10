"""Optimizers against torch's, parameter groups, schedules at their ends."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import nn

from lmcraft.core import find
from lmcraft.models import model as models
from lmcraft.stages import ppo, pretrain
from lmcraft.train import optim
from lmcraft.train.optim import Config, Muon, factor, orthogonal


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def small(kind: str, **settings) -> nn.Module:
    torch.manual_seed(0)
    size = {"vocab": 31, "context": 16, "layers": 2, "width": 16}
    return models.build(find.module("models", kind).Config(**size, **settings))


MODELS = [
    ("decoder", {"heads": 2, "tied": True}),
    (
        "decoder",
        {
            "heads": 2,
            "tied": False,
            "bias": "all",
            "positions": "learned",
            "norm": "layernorm",
            "mlp": "gelu",
        },
    ),
    ("rnn", {"cell": "lstm"}),
    ("rnn", {"cell": "rnn", "tied": False, "residual": False}),
]


@pytest.mark.parametrize("kind", ["adamw", "muon"])
@pytest.mark.parametrize("name,settings", MODELS)
def test_every_trained_parameter_is_in_exactly_one_group(name, settings, kind):
    """A failure would mean that a parameter never learns, or is updated twice a step."""
    net = small(name, **settings)
    frozen = next(p for p in net.parameters() if p.ndim == 2)
    frozen.requires_grad_(False)
    optimizers = optim.build(Config(kind=kind), 1e-3, net)
    grouped = [p for part in optimizers.parts for group in part.param_groups for p in group["params"]]
    assert len(grouped) == len({id(p) for p in grouped})
    assert {id(p) for p in grouped} == {id(p) for p in net.parameters() if p.requires_grad}


@pytest.mark.parametrize("name,settings", MODELS)
def test_decay_and_muon_act_on_hidden_matrices_only(name, settings):
    """A failure would mean that norms and embeddings shrink, or are orthogonalised."""
    net = small(name, **settings)
    inside = {
        id(p)
        for n, p in net.named_parameters()
        if p.ndim == 2 and not n.startswith(("embedding", "output", "position"))
    }
    adamw = optim.build(Config(kind="adamw", weight_decay=0.1), 1e-3, net).parts[0]
    decayed = {id(p) for g in adamw.param_groups if g["weight_decay"] for p in g["params"]}
    muon = optim.build(Config(kind="muon"), 1e-3, net)
    turned = {
        id(p) for part in muon.parts if isinstance(part, Muon) for g in part.param_groups for p in g["params"]
    }
    assert decayed == turned == inside


def test_adamw_equals_torch():
    """A difference would mean that published settings do not mean here what they mean elsewhere."""
    net, other = small("decoder", heads=2), small("decoder", heads=2)
    config = Config(kind="adamw", weight_decay=0.1, betas=(0.9, 0.99), eps=1e-7)
    ours = optim.build(config, 3e-3, net)
    matrices = [p for n, p in other.named_parameters() if p.ndim == 2 and "embedding" not in n]
    vectors = [p for n, p in other.named_parameters() if p.ndim != 2 or "embedding" in n]
    theirs = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}],
        lr=3e-3, betas=(0.9, 0.99), eps=1e-7,
    )  # fmt: skip
    for step in range(5):
        torch.manual_seed(step)
        for mine, copy in zip(net.parameters(), other.parameters(), strict=True):
            mine.grad = torch.randn_like(mine)
            copy.grad = mine.grad.clone()
        share = (step + 1) / 5
        for group in theirs.param_groups:
            group["lr"] = 3e-3 * share
        ours.step(share)
        theirs.step()
    for mine, copy in zip(net.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(mine, copy, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(24, 24), (16, 40), (40, 16), (8, 64)])
def test_orthogonal_is_near_the_nearest_orthogonal_matrix(shape):
    """A difference would mean that Muon moves in another direction than its momentum's U·Vᵀ."""
    torch.manual_seed(0)
    batch = torch.randn(3, *shape)
    found = orthogonal(batch)
    for matrix, near in zip(batch.double(), found.double(), strict=True):
        u, sizes, vt = torch.linalg.svd(matrix, full_matrices=False)
        inner = u.T @ near @ vt.T  # diagonal, with what the iteration made of each singular value
        values = inner.diagonal()
        values = values[sizes > 0.02 * sizes.norm()]  # five steps do not lift what is almost zero
        assert len(values) > 0.8 * len(sizes)
        assert values.min() > 0.6 and values.max() < 1.25
        assert (inner - torch.diag(inner.diagonal())).abs().max() < 1e-4


def test_orthogonal_of_each_matrix_alone_is_the_same():
    """A difference would mean that matrices of one shape influence each other."""
    torch.manual_seed(0)
    batch = torch.randn(4, 12, 20) * torch.tensor([1e-6, 1.0, 1e3, 5.0])[:, None, None]
    together = orthogonal(batch)
    for matrix, found in zip(batch, together, strict=True):
        torch.testing.assert_close(orthogonal(matrix[None])[0], found, rtol=1e-5, atol=1e-6)


def test_orthogonal_of_zero_is_zero():
    """A NaN would mean that a layer without gradient destroys its own weights."""
    assert (orthogonal(torch.zeros(2, 5, 9)) == 0).all()


@pytest.mark.parametrize("shape", [(32, 32), (48, 16), (16, 48)])
def test_muon_equals_torch_muon(shape):
    """A difference beyond bfloat16 would mean that our Muon is not the published one."""
    torch.manual_seed(0)
    start = torch.randn(shape) * 0.1
    mine, copy = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    ours = Muon([mine], lr=0.02, momentum=0.9, weight_decay=0.1)
    theirs = torch.optim.Muon(
        [copy], lr=0.02, momentum=0.9, weight_decay=0.1, nesterov=True, ns_steps=5, adjust_lr_fn="original"
    )
    for _ in range(6):
        # full rank and well apart, so that torch's iteration in bfloat16 is accurate enough to compare with
        gradient = torch.linalg.qr(torch.randn(max(shape), min(shape))).Q
        gradient = gradient if shape[0] >= shape[1] else gradient.T
        mine.grad, copy.grad = gradient.clone(), gradient.clone()
        ours.step()
        theirs.step()
    moved = (copy - start).norm()
    assert (mine - copy).norm() < 0.02 * moved
    cosine = torch.cosine_similarity((mine - start).flatten(), (copy - start).flatten(), dim=0)
    assert cosine > 0.9995


def test_muon_groups_by_shape_without_mixing_them_up():
    """A failure would mean that a layer gets its neighbour's update."""
    torch.manual_seed(0)
    shapes = [(8, 8), (16, 8), (8, 8), (8, 16), (16, 8)]
    together = [nn.Parameter(torch.randn(s)) for s in shapes]
    alone = [nn.Parameter(p.detach().clone()) for p in together]
    ours = Muon(together, 0.1, 0.95, 0.1)
    single = [Muon([p], 0.1, 0.95, 0.1) for p in alone]
    for _ in range(3):
        for p, q in zip(together, alone, strict=True):
            p.grad = torch.randn_like(p)
            q.grad = p.grad.clone()
        together[1].grad = alone[1].grad = None  # and one that has no gradient this time
        ours.step()
        for one in single:
            one.step()
    for p, q in zip(together, alone, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_state_can_be_taken_back(kind):
    """A difference would mean that a resumed run goes another way (nanochat and others forget part of it)."""

    def step(net, optimizers, seed):
        torch.manual_seed(seed)
        for parameter in net.parameters():
            parameter.grad = torch.randn_like(parameter)
        optimizers.step(0.5 + seed / 10)

    config = Config(kind=kind)
    net = small("decoder", heads=2)
    optimizers = optim.build(config, 1e-2, net)
    for seed in range(3):
        step(net, optimizers, seed)
    weights = {n: t.clone() for n, t in net.state_dict().items()}
    kept = {n: t.clone() for n, t in optimizers.state().items()}
    step(net, optimizers, 3)
    other = small("decoder", heads=2)
    other.load_state_dict(weights)
    again = optim.build(config, 1e-2, other)
    again.restore(kept)
    step(other, again, 3)
    for mine, theirs in zip(net.parameters(), other.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    found, expected = again.state(), optimizers.state()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)


@pytest.mark.parametrize("schedule", ["cosine", "linear", "trapezoid", "constant"])
def test_schedules_at_their_ends(schedule):
    """A wrong value would mean training that starts too fast, or never cools down."""
    config = Config(schedule=schedule, warmup=0.1, cooldown=0.4, final=0.2)
    values = [factor(config, step, 100) for step in range(100)]
    assert values[:10] == pytest.approx([(step + 1) / 11 for step in range(10)])
    assert values[10] == pytest.approx(1.0)
    assert all(0 < value <= 1 for value in values)
    last = {"constant": 1.0, "cosine": 0.2, "linear": 0.2, "trapezoid": 0.2}[schedule]
    assert factor(config, 100, 100) == pytest.approx(last)
    assert values[99] == pytest.approx(last, abs=0.03)
    assert all(a >= b - 1e-12 for a, b in itertools.pairwise(values[10:]))


def test_schedules_by_hand():
    """A difference would mean another shape than the option names."""
    flat = {"warmup": 0.0, "final": 0.0}
    assert factor(Config(schedule="linear", **flat), 25, 100) == pytest.approx(0.75)
    assert factor(Config(schedule="cosine", **flat), 25, 100) == pytest.approx(
        0.5 * (1 + math.cos(math.pi / 4))
    )
    trapezoid = Config(schedule="trapezoid", cooldown=0.5, **flat)
    assert [factor(trapezoid, s, 100) for s in (0, 50, 75)] == pytest.approx([1.0, 1.0, 0.5])


@pytest.mark.parametrize("steps", [1, 2, 3, 7])
@pytest.mark.parametrize("schedule", ["cosine", "linear", "trapezoid", "constant"])
def test_very_short_runs_still_learn(schedule, steps):
    """A zero or a division by zero would mean that a first try of a few steps does nothing or crashes."""
    for warmup in (0.0, 0.02, 1.0):
        for cooldown in (0.0, 1.0):
            config = Config(schedule=schedule, warmup=warmup, cooldown=cooldown)
            assert all(0 < factor(config, step, steps) <= 1 for step in range(steps))


def test_the_schedule_of_2017():
    """A difference would mean another rise or fall than min(step^-0.5, step · warmup^-1.5), scaled to its peak."""
    config, steps = Config(schedule="inverse_sqrt", warmup=0.1), 1000
    for step in (1, 40, 100, 101, 400, 1000):
        paper = min(step**-0.5, step * 100**-1.5) / 100**-0.5
        assert factor(config, step - 1, steps) == pytest.approx(paper, rel=0.011)


def test_a_stage_has_defaults_of_its_own_and_the_user_the_last_word():
    """A failure would mean that PPO does not get what was proved with, or that a setting is silently changed."""
    found = optim.for_stage(optim.Config(eps=1e-7), ppo)
    assert (found.kind, found.eps, found.weight_decay) == ("adamw", 1e-7, 0.0)
    assert optim.for_stage(optim.Config(), pretrain) == optim.Config()
