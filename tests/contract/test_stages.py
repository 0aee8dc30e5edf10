"""What every stage must keep: a summed loss, micro-batches that add up, packing without influence, exact resume."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict

import pytest
import torch

from lmcraft import api
from lmcraft.core import find
from lmcraft.data.batch import IGNORE
from lmcraft.data.loader import Loader
from lmcraft.data.tokens import write
from lmcraft.models import model
from lmcraft.text.chat import ChatTemplate
from lmcraft.train import checkpoint

WIDTH = 48


# They learn from answers of their own: see test_answering_stages.py.
ANSWERING = {n for n in find.names("stages") if "rollout" in find.module("stages", n).Config.model_fields}
every_stage = pytest.mark.parametrize("name", sorted({*find.names("stages")} - ANSWERING))
ALONE = {"embed", "reward", "dpo"}  # each text of a pair is a row of its own
every_packing_stage = pytest.mark.parametrize("name", sorted({*find.names("stages")} - ALONE - ANSWERING))


@pytest.fixture
def stage(name):
    """The stage `name` with its default settings, but for dropout, which would make every loss another one."""
    module = find.module("stages", name)
    return module.build(module.Config(**{"dropout": 0.0} if "dropout" in module.Config.model_fields else {}))


@pytest.fixture
def net(tokenizer, name, stage, records):
    """A tiny model of the kind that the stage trains, made ready for it."""
    torch.manual_seed(0)
    size = {"layers": 2, "width": 32, "heads": 2, "context": WIDTH}
    schema = find.module("models", find.module("stages", name).MODEL).Config
    made = model.build(schema(vocab=tokenizer.size, **size))
    return stage.ready(made, records(name), tokenizer).double()


@pytest.fixture
def loaders(stage, net, tokenizer, records, tmp_path):
    """A function: stage name → the stage, and its data packed and one document a row."""

    def make(name: str):
        template = ChatTemplate.load("chatml", tokenizer)
        made = stage.documents(records(name), tokenizer, template, WIDTH, Counter())
        shard = write(tmp_path / name, made, tokenizer.size, {}, Counter())
        finish = getattr(stage, "finish", None)
        apart = Loader(shard, WIDTH, 8, seed=0, pack=False, finish=finish)
        return stage, apart if name in ALONE else Loader(shard, WIDTH, 8, seed=0, finish=finish), apart

    return make


def everything(loader: Loader):
    return loader.batch(list(range(len(loader.rows))))


@every_stage
def test_a_stage_has_what_the_recipe_needs(name):
    """A failure would mean that a stage can be named but not started."""
    module = find.module("stages", name)
    assert module.LR > 0 and isinstance(module.CHAT, bool) and isinstance(module.PACK, bool)
    assert module.MODEL in find.names("models")
    assert module.Config().kind == name
    assert callable(module.build(module.Config()).loss)


@every_stage
def test_the_loss_is_a_sum_over_targets(name, loaders, net):
    """A failure would mean that the loop divides twice: short rows would count more than long ones (trap 12)."""
    stage, loader, _ = loaders(name)
    batch = everything(loader)
    whole = stage.loss(net, batch)
    assert whole.ndim == 0
    for rows in (1, 3, 8):
        split = [stage.loss(net, part) for part in batch.split(rows)]
        torch.testing.assert_close(torch.stack(split).sum(), whole, rtol=1e-10, atol=0)
    per_target = float(whole.detach()) / batch.count
    assert 0.1 < per_target < 3 * torch.tensor(float(net.config.vocab)).log()


@every_packing_stage
def test_packing_changes_no_loss(name, loaders, net):
    """A failure would mean that documents of one row see each other (trap 13)."""
    stage, packed, apart = loaders(name)
    packed.finish = apart.finish = None  # masks are drawn row by row
    assert len(packed.rows) < len(apart.rows)
    torch.testing.assert_close(
        stage.loss(net, everything(packed)), stage.loss(net, everything(apart)), rtol=1e-10, atol=0
    )


@every_stage
def test_masked_targets_have_no_gradient(name, loaders, net):
    """A failure would mean that what should only be read is trained."""
    stage, loader, _ = loaders(name)
    batch = loader.next()
    batch.targets_BT[2:] = IGNORE
    seen = []
    hook = net.embedding.register_forward_hook(lambda m, i, o: (o.retain_grad(), seen.append(o))[-1])
    stage.loss(net, batch).backward()
    hook.remove()
    assert (seen[0].grad[2:] == 0).all() and (seen[0].grad[:2].abs().sum(dim=(1, 2)) > 0).all()


@every_stage
def test_every_id_says_where_it_came_from(name, loaders, records):
    """A failure would mean that errors point at the wrong line."""
    _, loader, _ = loaders(name)
    known = {str(record.where) for record in records(name)}
    for row in range(len(loader.rows)):
        (where,) = loader.batch([row]).rows
        assert set(where.split(", (")[0:1]) and all(part in where for part in known if part in where)
        assert any(part in where for part in known)


@every_stage
def test_a_stage_learns_and_resumes_exactly(name, records, tmp_path):
    """A failure would mean that a stage does not reduce its own loss, or keeps state that a resumed run forgets."""
    file = tmp_path / "data.jsonl"
    rows = [{k: v for k, v in asdict(record).items() if k != "where"} for record in records(name)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = [
        f"data={file}", "model=nano", "model.width=32", f"model.context={WIDTH}", "model.dropout=0.1",
        "tokenizer.vocab=300",
        "train.steps=30", "train.batch_size=8", "train.precision=fp32", "train.lr=0.01", "sample.max_new_tokens=2",
    ]  # fmt: skip
    losses = [step.loss for step in api.train(name, arguments, tmp_path / "whole")]
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])
    for stop in (11, 23):
        for step in api.train(name, arguments, tmp_path / "stopped"):
            if step.number == stop:
                break
    again = [step.loss for step in api.train(name, arguments, tmp_path / "stopped")]
    assert again == losses[23:]
    whole, stopped = (checkpoint.newest(tmp_path / run / "checkpoints")[0] for run in ("whole", "stopped"))
    assert whole is not None and stopped is not None
    for name_, tensor in whole.tensors["model"].items():
        assert torch.equal(stopped.tensors["model"][name_], tensor)
