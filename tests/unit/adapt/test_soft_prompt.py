"""Soft prompts: in front of every document, with the cache on and off, and gone when switched off."""

from __future__ import annotations

import pytest
import torch

from lmcraft.adapt import adapter, prompt_layer, quantize, soft_prompt
from lmcraft.core.errors import UserError
from lmcraft.generate.engine import Engine
from lmcraft.generate.sampling import Sampling

GENERATORS = {
    "llama": ("decoder", {"kv_heads": 2}),
    "gpt2": ("decoder", {"positions": "learned", "norm": "layernorm", "mlp": "gelu"}),
    "gemma": ("decoder", {"norm": "sandwich", "mlp": "geglu", "window": 9}),
    "lstm": ("rnn", {}),
    "encdec": ("encdec", {"positions": "learned"}),
    "seq2seq": ("seq2seq", {"shared": False}),
}
ALL = GENERATORS | {"bert": ("encoder", {"positions": "learned"}), "classes": ("encoder+classes", {})}
CLOSE = {"rtol": 1e-4, "atol": 2e-5}
every_generator = pytest.mark.parametrize("name", GENERATORS)
every_model = pytest.mark.parametrize("name", ALL)


def prompted(tiny, name: str, length: int = 5):
    """A model with a prompt as after training, and its logits before."""
    kind, settings = ALL[name]
    model = tiny.build(kind, **settings)
    base = tiny.logits(model)
    soft_prompt.apply(model, soft_prompt.Config(length=length), "p")
    return tiny.scatter(model, 0.5), base


@every_model
def test_only_the_prompt_is_trained(tiny, name):
    """A failure would mean that the base moves, or that its tensors are not found under their names any more."""
    kind, settings = ALL[name]
    before = tiny.hashes(tiny.build(kind, **settings))
    model, base = prompted(tiny, name)
    assert tiny.logits(model).shape == base.shape
    assert (tiny.logits(model) - base).abs().max() > 1e-3
    (moved,) = tiny.step(model)
    assert moved.endswith("embedding.beside.p.prompt.weight")
    assert tiny.hashes(model) == before
    with adapter.disabled(model):
        assert tiny.logits(model).equal(base)
        assert model.max_length == tiny.build(kind, **settings).max_length
    adapter.set_strength(model, 0, "p")
    assert tiny.logits(model).equal(base)


@every_generator
@pytest.mark.parametrize("cuts", [[12], [1] * 12, [5, 1, 6]], ids=str)
def test_remembered_equals_recomputed(tiny, name, cuts):
    """A difference would mean that the prompt is ignored, or read twice, with the cache on (peft#2123)."""
    model, _ = prompted(tiny, name)
    memory = model.start(3, 12, tiny.source(3)) if model.reads_source else model.start(3, 12)
    pieces = [tiny.logits(model, part, None, memory) for part in tiny.tokens().split(cuts, dim=1)]
    torch.testing.assert_close(torch.cat(pieces, dim=1), tiny.logits(model), **CLOSE)


def test_a_text_that_is_read_again_has_its_prompt(tiny):
    """A difference would mean that dynamic rotary scaling forgets the prompt where it reads the text again."""
    model = tiny.build(rope={"kind": "dynamic", "factor": 4})
    tiny.scatter(soft_prompt.apply(model, soft_prompt.Config(length=5), "p"), 0.5)
    memory = model.start(3, 12)
    pieces = [tiny.logits(model, part, None, memory) for part in tiny.tokens().split([4, 1, 7], dim=1)]
    torch.testing.assert_close(pieces[-1], tiny.logits(model)[:, 5:], **CLOSE)


@every_model
def test_every_document_of_a_row_has_the_prompt(tiny, name):
    """A difference would mean that packing changes what is learned: some documents without a prompt, or in sight."""
    model, _ = prompted(tiny, name)
    if model.reads_source:
        return _each_target_reads_its_own_source(tiny, model)
    layout = [[1] * 5 + [2] * 7, [1] * 12, [0, 0, *[1] * 4, 0, *[2] * 3, 0, 0], [0] * 12]
    segments_BT, tokens_BT = torch.tensor(layout), tiny.tokens(4)
    packed = tiny.logits(model, tokens_BT, segments_BT)
    for row, numbers in ((0, (1, 2)), (1, (1,)), (2, (1, 2))):
        for number in numbers:
            inside = segments_BT[row] == number
            alone = tiny.logits(model, tokens_BT[row][inside][None])[0]
            torch.testing.assert_close(packed[row, inside], alone, **CLOSE)
    assert packed.isfinite().all()
    return None


def _each_target_reads_its_own_source(tiny, model) -> None:
    source, tokens_BT = tiny.source(3), tiny.tokens()
    together = tiny.logits(model)
    for row in range(3):
        real = source.segments_BS[row] == 1
        own = type(source).of(source.tokens_BS[row][real][None])
        alone = model.head(model(tokens_BT[row][None], source=own))[0]
        torch.testing.assert_close(together[row], alone, **CLOSE)


def test_where_ids_go_in():
    """A failure would mean that a hidden vector is taken for that of another token."""
    ids_P, tokens_BT = torch.tensor([90, 91]), torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8], [9, 9, 9, 9]])
    segments_BT = torch.tensor([[1, 1, 2, 0], [0, 1, 1, 1], [0, 0, 0, 0]])
    whole, layout, place_BT = soft_prompt.inserted(ids_P, tokens_BT, segments_BT)
    assert whole[:2].tolist() == [[90, 91, 1, 2, 90, 91, 3, 4], [5, 90, 91, 6, 7, 8, 0, 0]]
    assert layout.tolist() == [[1, 1, 1, 1, 2, 2, 2, 0], [0, 1, 1, 1, 1, 1, 0, 0], [0] * 8]
    assert whole.gather(1, place_BT).equal(tokens_BT)


@every_generator
def test_generation_reads_the_prompt(tiny, tokenizer, name):
    """A failure would mean that greedy text is that of the base, or that batching changes it."""
    model, _ = prompted(tiny, name)
    engine = Engine(model, tokenizer, stop_ids=[])
    prompts = [[3, 4, 5], [6], [7, 8, 9, 10, 11]]
    sources = [[1, 2, 3], [4], [5, 6]] if model.reads_source else None
    greedy = Sampling(temperature=0.0, max_new_tokens=6)
    found = engine.generate(prompts, greedy, sources=sources)
    ids = [completion.tokens for completion in found]
    scores = engine.score(list(zip(prompts, ids, strict=True)), sources=sources)
    assert all(score.is_greedy for score in scores)
    assert [s.logprob for s in scores] == pytest.approx([sum(c.logprobs) for c in found], abs=1e-4)


def test_starts_as_its_text(tiny, tokenizer):
    """A failure would mean that a prompt that begins as a written one does not act as that text would."""
    model = tiny.build(vocab=tokenizer.size)
    text = tokenizer.encode_plain("the cat sat")
    soft_prompt.apply(model, soft_prompt.Config(text="the cat sat"), "p", tokenizer)
    written = torch.tensor([text]).expand(3, -1)
    with adapter.disabled(model):
        expected = tiny.logits(model, torch.cat((written, tiny.tokens()), dim=1))[:, len(text) :]
    torch.testing.assert_close(tiny.logits(model), expected, **CLOSE)
    for length in (1, 2 * len(text) + 1):
        other = tiny.build(vocab=tokenizer.size)
        soft_prompt.apply(other, soft_prompt.Config(text="the cat sat", length=length), "p", tokenizer)
        ids = (text * 3)[:length]
        assert other.embedding.beside["p"].prompt.weight.equal(other.embedding.weight[ids])


def test_random_tokens_are_words(tiny, tokenizer):
    """A failure would mean a start from rows that no text has, or another one at every run."""
    prompts = []
    for _ in range(2):
        model = tiny.build(vocab=tokenizer.size + 9, context=256)
        torch.manual_seed(4)
        soft_prompt.apply(model, soft_prompt.Config(length=200), "p", tokenizer)
        prompts.append(model.embedding.beside["p"].prompt.weight.detach())
        rows = {tuple(row) for row in prompts[-1].tolist()}
        words = [i for i in range(tokenizer.size) if i not in tokenizer.special_ids]
        assert rows <= {tuple(row) for row in model.embedding.weight[words].tolist()}
    assert prompts[0].equal(prompts[1])


@pytest.mark.parametrize("name", ["llama", "lstm", "encdec"])
def test_prompts_stand_in_a_row(tiny, name):
    """A failure would mean that of several prompts one is lost, or that switching one off moves the other."""
    model, _ = prompted(tiny, name)
    one = tiny.logits(model)
    soft_prompt.apply(model, soft_prompt.Config(length=3), "q")
    both = tiny.logits(model)
    adapter.set_strength(model, 0, "p")
    second = tiny.logits(model)
    adapter.set_strength(model, 1, "p")
    adapter.set_strength(model, 0, "q")
    assert tiny.logits(model).equal(one)
    assert not torch.allclose(both, one) and not torch.allclose(second, both)
    adapter.set_strength(model, 1, "q")
    kind, settings = ALL[name]
    joined = tiny.build(kind, **settings)
    soft_prompt.apply(joined, soft_prompt.Config(length=8), "r")
    parts = model.embedding.beside
    with torch.no_grad():
        joined.embedding.beside["r"].prompt.weight.copy_(torch.cat([p.prompt.weight for p in parts.values()]))
    torch.testing.assert_close(tiny.logits(joined), both, **CLOSE)


def test_stands_beside_other_adapters(tiny):
    """A failure would mean that a prompt's ids reach a table without rows for them, or that quantizing undoes it."""
    model = quantize.apply(tiny.build(), quantize.Config(also=("embedding",)), "q")
    plain = adapter.merge(quantize.apply(tiny.build(), quantize.Config(also=("embedding",)), "q"))
    for each in (model, plain):
        torch.manual_seed(2)
        soft_prompt.apply(each, soft_prompt.Config(length=4), "p")
        prompt_layer.apply(each, prompt_layer.Config(rank=2), "l")
        tiny.scatter(each)
    torch.testing.assert_close(tiny.logits(model), tiny.logits(plain), **CLOSE)
    memory = model.start(3, 12)
    torch.testing.assert_close(tiny.logits(model, tiny.tokens(), None, memory), tiny.logits(model), **CLOSE)


def test_leaves_less_room(tiny):
    """A failure would mean that generation runs past what the model was trained to see."""
    model, _ = prompted(tiny, "gpt2")
    assert model.max_length == 43
    assert tiny.logits(model, tiny.tokens(1, 43)).isfinite().all()
    assert prompted(tiny, "lstm")[0].max_length is None
    with pytest.raises(UserError, match="leaves no room"):
        soft_prompt.apply(model, soft_prompt.Config(length=43), "more")


def test_a_strength_between_is_refused(tiny):
    """A failure would mean that turning the dial does nothing, without a word."""
    model, _ = prompted(tiny, "llama")
    with pytest.raises(UserError, match=r"no strength of 0\.5"):
        adapter.set_strength(model, 0.5, "p")


def test_a_text_without_tokens_is_refused(tiny, tokenizer):
    """A failure would mean a prompt of nothing."""
    with pytest.raises(UserError, match="no tokens") as caught:
        soft_prompt.apply(tiny.build(), soft_prompt.Config(text="cat"), "p")
    assert "there is no tokenizer" in str(caught.value)
