"""What every stage keeps with every adapter: it trains, and nothing but the adapter and a fresh head moves."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import pytest
import torch

from lmcraft import recipe, work
from lmcraft.adapt import adapter, entries
from lmcraft.core import find
from lmcraft.core.errors import UserError
from lmcraft.data.loader import Loader
from lmcraft.data.tokens import write
from lmcraft.generate.language_model import LanguageModel
from lmcraft.models import model
from lmcraft.text.chat import ChatTemplate
from lmcraft.train import loop, optim

WIDTH, ROWS = 48, 16  # as many as one group of pairs
KINDS = [*find.names("adapt"), "qlora"]
ADD_A_HEAD = {"classify", "tag", "reward", "ppo"}
# What the stages that learn from answers of their own need to begin.
REWARDED = {"reward": "length", "rollout": {"max_new_tokens": 5}}
TRAIN = loop.Config(
    steps=2, batch_size=ROWS, lr=1e-2, precision="fp32",
    optim=optim.Config(kind="adamw", warmup=0, schedule="constant"),
)  # fmt: skip


@pytest.fixture
def base(name, tokenizer) -> torch.nn.Module:
    """A finished tiny model of the kind that the stage starts from."""
    torch.manual_seed(0)
    schema = find.module("models", find.module("stages", name).MODEL).Config
    return model.build(schema(vocab=tokenizer.size, layers=2, width=32, heads=2, context=2 * WIDTH))


@pytest.fixture
def stage(name):
    module = find.module("stages", name)
    return module.build(module.Config(**REWARDED if "rollout" in module.Config.model_fields else {}))


def adapted(stage, base: torch.nn.Module, kind: str, records: list, tokenizer) -> torch.nn.Module:
    """As `lmcraft train STAGE base=… adapter=KIND` makes it."""
    asked = recipe.read(stage.config.kind, ["data=records.jsonl", "base=base", f"adapter={kind}"])
    if hasattr(stage, "adapted"):
        stage.adapted = entries.kept_as_it_is(asked.adapter)
    return work.adapted(
        asked, Path("base"), base, lambda net: stage.ready(net, records, tokenizer), tokenizer, halved=False
    )  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", find.names("stages"))
def test_only_the_adapter_and_a_fresh_head_move(name, kind, stage, base, tokenizer, records, tmp_path):
    """A failure would mean that a stage cannot be trained beside a frozen base, or changes it."""
    own = {id(parameter) for parameter in base.parameters()}
    if kind == "quantize" and name not in ADD_A_HEAD:
        with pytest.raises(UserError, match="leave nothing to train") as refused:
            adapted(stage, base, kind, records(name), tokenizer)
        assert refused.value.why and refused.value.fix
        return
    net = adapted(stage, base, kind, records(name), tokenizer)
    if kind == "quantize" and hasattr(stage, "experience"):
        with pytest.raises(UserError, match="nothing of the policy"):
            stage.experience(None, LanguageModel(net, tokenizer, None), [], TRAIN)
        return
    named = dict(net.named_parameters())
    inside = {f"{path}.{n}" for path, part in adapter.parts(net).items() for n, _ in part.named_parameters()}
    fresh = {n for n, p in named.items() if id(p) not in own and n not in inside}
    trained = {n for n, p in named.items() if p.requires_grad}
    assert bool(fresh) == (name in ADD_A_HEAD) and fresh <= trained
    if kind != "freeze":
        assert trained == inside | fresh

    template = ChatTemplate.load("chatml", tokenizer)
    documents = stage.documents(records(name), tokenizer, template, WIDTH, Counter())
    shard = write(tmp_path / "shard", documents, tokenizer.size, {}, Counter())
    group = getattr(stage.config, "group", 1)
    loader = Loader(shard, WIDTH, ROWS, 0, False, finish=getattr(stage, "finish", None), group=group)
    if hasattr(stage, "experience"):
        loader = stage.experience(loader, LanguageModel(net, tokenizer, template), records(name), TRAIN)
    before = {n: tensor.clone() for n, tensor in net.state_dict().items()}
    losses = [step.loss for step in loop.train(stage, net, loader, TRAIN, None, print)]
    assert len(losses) == 2 and all(map(math.isfinite, losses))
    assert {n for n, tensor in net.state_dict().items() if not tensor.equal(before[n])} == trained
