"""float16: the loss is scaled, overflows skip a step, clipping sees the true gradient, and all of it resumes."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
import torch

from lmcraft.core.errors import UserError
from lmcraft.data.loader import Loader
from lmcraft.data.records import Where
from lmcraft.data.tokens import Document, write
from lmcraft.models import decoder, model
from lmcraft.train import loop, optim, precision, scaling
from lmcraft.train.loss import summed_cross_entropy

VOCAB, WIDTH, BATCH = 29, 10, 4


class Stage:
    """Next tokens; at some steps the gradient overflows."""

    def __init__(self, overflows: tuple[int, ...] = ()) -> None:
        self.overflows, self.calls = overflows, 0

    def loss(self, net, batch):
        self.calls += 1
        total = summed_cross_entropy(net, net(batch.tokens_BT, batch.segments_BT), batch.targets_BT)
        if self.calls in self.overflows:
            total = total + (net.norm.weight * 0).sum().sqrt()  # finite here, its gradient is not
        return total


@pytest.fixture
def loader(tmp_path):
    torch.set_num_threads(1)
    draw = np.random.default_rng(0)
    documents = [
        Document(draw.integers(0, VOCAB, 3 + n % 8).tolist(), None, Where("x", n)) for n in range(10)
    ]
    shard = write(tmp_path / "shard", documents, VOCAB, {}, Counter())
    return lambda: Loader(shard, WIDTH, BATCH, seed=0, pack=False)


def fresh() -> torch.nn.Module:
    torch.manual_seed(0)
    return model.build(decoder.Config(vocab=VOCAB, context=WIDTH, layers=1, width=16, heads=2))


def run(folder, loader, stage=None, net=None, said=None, **settings) -> list[loop.Step]:
    config = loop.Config(**({"steps": 5, "batch_size": BATCH, "lr": 0.01, "precision": "fp16"} | settings))
    told = [] if said is None else said
    return list(loop.train(stage or Stage(), net or fresh(), loader, config, folder, told.append))


def test_an_overflow_skips_the_step_and_lowers_the_scale(tmp_path, loader):
    """A failure would mean that one overflow writes NaN into every weight, or is never noticed."""
    net, said = fresh(), []
    stage = Stage(overflows=(2,))
    config = loop.Config(steps=3, batch_size=BATCH, lr=0.01, precision="fp16")
    before, moved, steps = [p.detach().clone() for p in net.parameters()], [], []
    for step in loop.train(stage, net, loader(), config, tmp_path / "c", said.append):
        now = [p.detach().clone() for p in net.parameters()]
        moved.append(any(not torch.equal(a, b) for a, b in zip(now, before, strict=True)))
        before = now
        steps.append(step)
    assert moved == [True, False, True]
    assert [s.skipped for s in steps] == [False, True, False]
    assert [s.number for s in steps] == [1, 2, 3]
    assert [s.loss_scale for s in steps] == [65536, 65536, 32768]
    assert len(said) == 1 and "step 2" in said[0] and "32768" in said[0]
    assert not math.isfinite(steps[1].grad_norm) and math.isfinite(steps[2].grad_norm)


def test_overflow_at_every_scale_stops(tmp_path, loader, monkeypatch):
    """A failure would mean that a broken model is skipped over for ever."""
    monkeypatch.setattr(scaling, "FIRST", 4.0)
    with pytest.raises(UserError, match="not finite"):
        run(tmp_path / "c", loader(), Stage(overflows=(1, 2, 3)))


def test_norm_and_clipping_are_those_of_the_true_gradient(tmp_path, loader):
    """A failure would mean that float16 clips everything away, or that curves show scaled norms."""
    seen: dict[str, list] = {}
    for kind in ("fp32", "fp16"):
        net = fresh()
        adam = optim.Config(kind="adamw", clip=0.01, betas=(0.0, 0.0), eps=1.0, weight_decay=0)
        steps = run(tmp_path / kind, loader(), net=net, precision=kind, optim=adam, lr=0.1)
        seen[kind] = [
            [s.grad_norm for s in steps],
            torch.cat([p.detach().flatten() for p in net.parameters()]),
        ]
    np.testing.assert_allclose(seen["fp16"][0], seen["fp32"][0], rtol=2e-2)
    start = torch.cat([p.detach().flatten() for p in fresh().parameters()])
    ours, exact = seen["fp16"][1] - start, seen["fp32"][1] - start
    assert (ours - exact).norm() < 0.05 * exact.norm() and exact.norm() > 0


def test_the_scale_is_resumed_exactly(tmp_path, loader):
    """A difference would mean that a resumed run overflows anew, or learns other numbers."""
    whole, parts = fresh(), fresh()
    run(tmp_path / "whole", loader(), Stage(overflows=(1, 2)), whole, save_every=100)
    steps = loop.train(
        Stage(overflows=(1, 2)), parts, loader(),
        loop.Config(steps=5, batch_size=BATCH, lr=0.01, precision="fp16"), tmp_path / "c", lambda text: None,
    )  # fmt: skip
    for step in steps:
        if step.number == 3:
            break
    steps.close()
    again = fresh()
    rest = run(tmp_path / "c", loader(), net=again)
    assert [s.loss_scale for s in rest] == [16384, 16384]
    for ours, theirs in zip(again.parameters(), whole.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_the_scale_grows_after_many_good_steps(monkeypatch):
    """A failure would mean that one early overflow costs precision for the whole run."""
    monkeypatch.setattr(scaling, "GROW_AFTER", 3)
    scaler = scaling.Scaler("fp16")
    scales = []
    for skipped in (True, False, False, False, False, True, False, False, False):
        scaler.update(skipped)
        scales.append(scaler.scale)
    assert scales == [32768.0] * 3 + [65536.0] * 2 + [32768.0] * 3 + [65536.0]


@pytest.mark.parametrize("kind", ["bf16", "fp16"])
def test_weights_and_averages_stay_float32(tmp_path, loader, kind):
    """A failure would mean that small updates are rounded away (trap 17)."""
    net, kept = fresh(), {}
    state = optim.Optimizers.state
    config = loop.Config(steps=1, batch_size=BATCH, lr=0.01, precision=kind)
    computed = []
    net.blocks[0].mlp.register_forward_hook(lambda module, args, output: computed.append(output.dtype))

    def spy(self):
        kept.update(state(self))
        return state(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(optim.Optimizers, "state", spy)
        list(loop.train(Stage(), net, loader(), config, tmp_path / "c", lambda text: None))
    assert computed == [{"bf16": torch.bfloat16, "fp16": torch.float16}[kind]]
    assert {p.dtype for p in net.parameters()} == {torch.float32}
    assert {t.dtype for t in kept.values()} == {torch.float32} and kept


def test_slow_numbers_are_warned_about(monkeypatch):
    """Silence would mean that somebody waits eight times as long without knowing why."""
    times = {torch.float16: 8.0, torch.bfloat16: 1.0, torch.float32: 1.0}
    monkeypatch.setattr(precision, "_seconds", lambda dtype, device: times[dtype])
    said = precision.warning("fp16", torch.device("cpu"))
    assert said is not None and "8 times slower" in said and "train.precision=fp32" in said
    assert precision.warning("bf16", torch.device("cpu")) is None
    assert precision.warning("fp32", torch.device("cpu")) is None
