"""What every stage keeps that learns from answers of its own: every kind of model, micro-batches, exact resume."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from lmcraft.core import find
from lmcraft.data.batch import IGNORE
from lmcraft.data.loader import Loader
from lmcraft.data.records import Message, Prompt, Where
from lmcraft.data.tokens import write
from lmcraft.generate.language_model import LanguageModel
from lmcraft.models import decoder, encdec, rnn, seq2seq
from lmcraft.models import model as models
from lmcraft.train import loop, optim

WIDTH, ROWS = 48, 8
STAGES = [n for n in find.names("stages") if "rollout" in find.module("stages", n).Config.model_fields]
STAGES.append("ppo, shaped")
OWN = {"best_of_n": {"n": 2}, "grpo": {"group": 4}, "ppo, shaped": {"group": 4, "shaping": True}}
CONFIGS = {
    "decoder": lambda vocab: decoder.Config(vocab=vocab, layers=2, width=32, heads=2, context=WIDTH),
    "lstm": lambda vocab: rnn.Config(vocab=vocab, layers=1, width=32, context=WIDTH),
    "encdec": lambda vocab: encdec.Config(vocab=vocab, layers=1, width=32, heads=2, context=WIDTH),
    "seq2seq": lambda vocab: seq2seq.Config(vocab=vocab, layers=1, width=32, context=WIDTH),
}
PROMPTS = [
    Prompt((Message("user", f"say {word}"),), None, Where("prompts", n))
    for n, word in enumerate("a b c d e".split())
]
SETTINGS = loop.Config(
    steps=6, batch_size=ROWS, lr=1e-2, precision="fp32", save_every=1, keep=10,
    optim=optim.Config(kind="adamw", warmup=0, schedule="constant"),
)  # fmt: skip


def stage(name: str):
    module, own = find.module("stages", name.partition(",")[0]), OWN.get(name, {})
    return module.build(module.Config(reward="length", rollout={"max_new_tokens": 6, "episodes": 16}, **own))


def begin(name: str, kind: str, tokenizer, folder, settings=SETTINGS):
    """Stage, model and experience, always the same."""
    made = stage(name)
    torch.manual_seed(0)
    net = made.ready(models.build(CONFIGS[kind](tokenizer.size)), PROMPTS, tokenizer)
    documents = made.documents(PROMPTS, tokenizer, None, WIDTH, Counter())
    shard = write(folder / f"shard-{kind}", documents, tokenizer.size, {}, Counter())
    loader = Loader(shard, WIDTH, ROWS, 0, pack=False)
    return made, net, made.experience(loader, LanguageModel(net, tokenizer, None), PROMPTS, settings)


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("name", STAGES)
def test_every_kind_of_model_that_writes_can_learn_so(name, kind, tokenizer, tmp_path):
    """A failure would mean that an architecture is left out, or that its answers are not what is trained on."""
    made, net, loader = begin(name, kind, tokenizer, tmp_path)
    before = {n: p.clone() for n, p in net.named_parameters()}
    steps = []
    for step in loop.train(made, net, loader, SETTINGS, None, print):
        told = made.told()
        if step.number == 1 and "ratio" in told:
            assert told["ratio"] == pytest.approx(1.0, abs=1e-6)
        steps.append(step)
    assert len(steps) == 6 and all(torch.tensor(step.loss).isfinite() for step in steps)
    assert any(not p.equal(before[n]) for n, p in net.named_parameters())


@pytest.mark.parametrize("name", STAGES)
def test_micro_batches_add_up(name, tokenizer, tmp_path):
    """A failure would mean that the size of a forward changes what is learned."""
    made, net, loader = begin(name, "decoder", tokenizer, tmp_path)
    net.double()
    batch = loader.next()
    assert set(batch.targets_BT[batch.targets_BT != IGNORE].tolist()) and batch.tokens_BT.shape[0] == ROWS
    whole = made.loss(net, batch)
    for rows in (1, 3):
        parts = torch.stack([made.loss(net, micro) for micro in batch.split(rows)])
        torch.testing.assert_close(parts.sum(), whole, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", STAGES)
def test_going_on_ends_with_the_same_bits(name, tokenizer, tmp_path):
    """A failure would mean that answers, credit or coefficients are lost where training is stopped."""

    def weights(net):
        return {n: p.detach().clone() for n, p in net.named_parameters()}

    made, net, loader = begin(name, "decoder", tokenizer, tmp_path)
    for _ in loop.train(made, net, loader, SETTINGS, tmp_path / "whole", print):
        pass
    expected = weights(net)
    for stop in (1, 4):
        folder = tmp_path / f"stopped-{stop}"
        made, net, loader = begin(name, "decoder", tokenizer, tmp_path)
        for step in loop.train(made, net, loader, SETTINGS, folder, print):
            if step.number == stop:
                break
        made, net, loader = begin(name, "decoder", tokenizer, tmp_path)
        for _ in loop.train(made, net, loader, SETTINGS, folder, print):
            pass
        assert all(p.equal(expected[n]) for n, p in weights(net).items())
