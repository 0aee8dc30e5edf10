"""What every adapter keeps: it starts as the base, only its tensors train, the frozen cost nothing, saved = loaded."""

from __future__ import annotations

import hashlib

import pytest
import torch

from lmcraft.adapt import adapter, directory, entries
from lmcraft.adapt.base import fingerprint
from lmcraft.core import find
from lmcraft.core.errors import UserError
from lmcraft.data.batch import Batch
from lmcraft.layers.source import Source
from lmcraft.models import decoder, encdec, encoder, model, rnn, seq2seq, weights
from lmcraft.stages.stage import next_token_loss
from lmcraft.train import optim
from lmcraft.train.loss import summed_cross_entropy

CONFIGS = {
    "decoder": decoder.Config(vocab=61, context=64, layers=2, width=32, heads=2),
    "encoder": encoder.Config(vocab=61, context=64, layers=2, width=32, heads=2),
    "rnn": rnn.Config(vocab=61, context=64, layers=2, width=32),
    "encdec": encdec.Config(vocab=61, context=64, layers=2, width=32, heads=2),
    "seq2seq": seq2seq.Config(vocab=61, layers=1, width=32, attention_width=16),
}
NOT_EXACT = {
    "quantize",
    "soft_prompt",
}  # they change the numbers, or what is read, from the start, as documented
IDS_BT = torch.randint(0, 61, (3, 7), generator=torch.Generator().manual_seed(1))
every_kind = pytest.mark.parametrize("kind", find.names("adapt"))
every_model = pytest.mark.parametrize("net", CONFIGS)


def beside(made) -> dict:
    return {"source": Source.of(IDS_BT)} if made.reads_source else {}


@torch.no_grad()
def logits(made) -> torch.Tensor:
    return made.head(made(IDS_BT, **beside(made)))


@pytest.fixture
def place(net, tmp_path):
    torch.manual_seed(0)
    weights.save(model.build(CONFIGS[net]), tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture
def adapted(kind, place):
    """A base with one adapter of this kind; where it cannot be had, the reason is what the test is about."""
    base = weights.load(place)
    adapter.freeze(base)
    under = entries.Base(str(place), fingerprint(base))
    torch.manual_seed(0)
    try:
        return entries.apply(base, [find.module("adapt", kind).Config()], under, None)
    except UserError as error:
        assert error.why or error.fix, f"{kind} refuses without a reason: {error}"
        return None


def trained(made) -> dict[str, torch.nn.Parameter]:
    return {name: p for name, p in made.named_parameters() if p.requires_grad}


@torch.no_grad()
def moved(made):
    """The model after something like training."""
    for parameter in {id(p): p for p in trained(made).values()}.values():
        parameter.add_(torch.randn_like(parameter) * 0.05)
    return made.eval()


def hashes(made) -> dict[str, str]:
    return {n: hashlib.sha256(t.reshape(-1).contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()
            for n, t in made.state_dict().items()}  # fmt: skip


def step(made, optimizers) -> None:
    batch = Batch(IDS_BT, IDS_BT.roll(-1, 1), torch.ones_like(IDS_BT))
    if made.reads_source:
        loss = summed_cross_entropy(made, made(IDS_BT, **beside(made)), batch.targets_BT)
    else:
        loss = next_token_loss(made, batch)
    (loss / IDS_BT.numel()).backward()
    optimizers.step(1.0)


@every_model
@every_kind
def test_it_starts_as_the_base(net, kind, place, adapted):
    """A failure would mean that training starts from another model than the one that was named (traps 30 and 33)."""
    if adapted is None:
        return
    wanted = logits(weights.load(place))
    if kind not in NOT_EXACT:
        assert torch.equal(logits(adapted), wanted)
    if adapter.parts(adapted):
        with adapter.disabled(adapted):
            assert torch.equal(logits(adapted), wanted)


@every_model
@every_kind
def test_only_its_tensors_train(net, kind, adapted):
    """A failure would mean that the base changes, or that frozen weights cost gradients or state (trap 18)."""
    if adapted is None or not trained(adapted):
        return
    own, before = trained(adapted), hashes(adapted)
    same = {id(p): p for p in own.values()}
    optimizers = optim.build(optim.Config(kind="adamw"), 1e-2, adapted)
    for _ in range(2):
        optimizers.zero_grad()
        step(adapted, optimizers)
    frozen = [p for p in adapted.parameters() if id(p) not in same]
    assert all(p.grad is None for p in frozen)
    state = sum(t.numel() * t.element_size() for t in optimizers.state().values() if t.ndim)
    assert 0 < state <= 2 * sum(p.numel() * p.element_size() for p in same.values())
    after = hashes(adapted)
    changed = {name for name in before if before[name] != after[name]}
    names = {n for n, p in adapted.named_parameters(remove_duplicate=False) if id(p) in same}
    assert changed and changed <= names


@every_model
@every_kind
def test_saved_and_loaded_it_answers_the_same(net, kind, place, adapted, tmp_path):
    """A failure would mean that a run's answers are not those of the model that was trained."""
    if adapted is None:
        return
    wanted = logits(moved(adapted))
    if not entries.kept_apart(adapted):
        weights.save(adapted, tmp_path / "model")
        assert torch.equal(logits(weights.load(tmp_path / "model")), wanted)
        return
    directory.save(adapted, tmp_path / "adapter")
    read = directory.load({"again": tmp_path / "adapter"}, place, None)
    assert torch.equal(logits(read), wanted)
    if adapter.names(read):
        assert adapter.names(read) == ["again"]
    torch.manual_seed(9)
    other = model.build(CONFIGS[net])
    weights.save(other, tmp_path / "other")
    with pytest.raises(UserError, match="another base"):
        directory.load({None: tmp_path / "adapter"}, tmp_path / "other", None)


@every_model
@every_kind
def test_merged_it_answers_the_same(net, kind, adapted, tmp_path):
    """A failure would mean that `lmcraft merge` makes another model (trap 31), or leaves a broken tie (trap 21)."""
    if adapted is None or not entries.kept_apart(adapted):
        return
    wanted = logits(moved(adapted))
    try:
        merged = adapter.merge(adapted)
    except UserError as error:
        assert error.why and error.fix
        assert torch.equal(logits(adapted), wanted), "refusing must leave the model as it was"
        return
    assert not adapter.parts(merged) and not any(map(adapter.is_quantized, merged.modules()))
    weights.save(merged, tmp_path / "merged")
    torch.testing.assert_close(logits(weights.load(tmp_path / "merged")), wanted, rtol=0, atol=1e-5)


@every_kind
@pytest.mark.parametrize("net", ["decoder"])
def test_the_seed_is_all_that_its_start_depends_on(net, kind, place, adapted):
    """A failure would mean that two runs of one seed start from different adapters (trap 19)."""
    if adapted is None:
        return
    base = weights.load(place)
    adapter.freeze(base)
    torch.manual_seed(0)
    again = entries.apply(base, [find.module("adapt", kind).Config()], entries.Base("", ""), None)
    assert hashes(again) == hashes(adapted)


@pytest.mark.parametrize("net", ["decoder", "rnn", "seq2seq"])
@pytest.mark.parametrize("wanted", ["lora", "dora", "bottleneck", "prompt_layer", "soft_prompt"])
def test_over_a_quantized_base_it_keeps_the_same(net, wanted, place, tmp_path):
    """A failure would mean that QLoRA and its kin cannot be trained, or answer differently once they are loaded."""
    kind, more = ("lora", {"dora": True}) if wanted == "dora" else (wanted, {})
    quantize = find.module("adapt", "quantize").Config()

    def over(*configs):
        base = weights.load(place)
        adapter.freeze(base)
        torch.manual_seed(0)
        return entries.apply(
            base, list(configs), entries.Base(str(place), fingerprint(weights.load(place))), None
        )

    try:
        made = over(quantize, find.module("adapt", kind).Config(**more))
    except UserError as error:
        assert error.why, f"{kind} refuses without a reason: {error}"
        return
    if kind not in NOT_EXACT:
        torch.testing.assert_close(logits(made), logits(over(quantize)), rtol=0, atol=1e-6)
    before = hashes(made)
    optimizers = optim.build(optim.Config(kind="adamw"), 1e-2, made)
    for _ in range(2):
        optimizers.zero_grad()
        step(made, optimizers)
    after = hashes(made)
    assert {n for n in before if before[n] != after[n]} == set(trained(made))
    made.eval()
    directory.save(made, tmp_path / "adapter")
    assert torch.equal(logits(directory.load({None: tmp_path / "adapter"}, place, None)), logits(made))
    answers = logits(made)
    try:
        merged = adapter.merge(made)
    except UserError as error:
        assert error.why and error.fix
        return
    torch.testing.assert_close(logits(merged), answers, rtol=0, atol=1e-5)
    assert not any(map(adapter.is_quantized, merged.modules()))
