"""Freezing: the tensors that are asked for are trained, all of them and no others."""

from __future__ import annotations

import pytest

from lmcraft.adapt import freeze, quantize
from lmcraft.core.errors import UserError

LAYERS = {
    "decoder": ["blocks.0", "blocks.1"],
    "encoder": ["blocks.0", "blocks.1"],
    "rnn": ["layers.0 norms.0", "layers.1 norms.1"],
    "encdec": ["decoder.blocks.0", "decoder.blocks.1"],
    "seq2seq": ["attentive", "layers.0"],
    "decoder+classes": ["body.blocks.0", "body.blocks.1"],
}


def trained(model) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize("kind", LAYERS)
def test_the_last_layer_is_trained_and_nothing_else_changes(tiny, kind):
    """A failure would mean that `layers` names other layers than the user thinks, or that frozen weights move."""
    model = freeze.apply(tiny.build(kind), freeze.Config(layers=1), "f")
    last = tuple(f"{path}." for path in LAYERS[kind][-1].split())
    asked = {name for name, _ in model.named_parameters() if name.startswith(last)}
    assert asked and trained(model) == asked
    before = tiny.hashes(model)
    changed = set(tiny.step(model))
    after = tiny.hashes(model)
    assert changed == {name for name in before if before[name] != after[name]}
    assert changed <= asked and len(changed) >= len(asked) - 1  # a bias of keys may be blind


@pytest.mark.parametrize("kind", LAYERS)
def test_layers_are_counted_from_the_output(tiny, kind):
    """A failure would mean that a model of some kind is cut at another place."""
    assert [" ".join(paths) for paths in freeze.layers(tiny.build(kind))] == LAYERS[kind]


def test_nothing_moves_before_training(tiny):
    """A failure would mean that freezing is not free: the model must start as its base."""
    model = tiny.build()
    base = tiny.logits(model)
    assert tiny.logits(freeze.apply(model, freeze.Config(layers=1, head=True), "f")).equal(base)


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (("blocks.1.attn.q",), {"blocks.1.attn.q.weight", "blocks.1.attn.q.bias"}),
        (("*.bias",), None),
        (("head",), {"output.weight"}),
        (("*norm", "embedding.weight"), None),
    ],
)
def test_patterns_fit_tensors_and_modules(tiny, patterns, expected):
    """A failure would mean that BitFit or the norms are trained with something missing."""
    model = freeze.apply(tiny.build(bias="all", tied=False), freeze.Config(patterns=patterns), "f")
    names = [name for name, _ in model.named_parameters()]
    if patterns == ("*.bias",):
        expected = {name for name in names if name.endswith("bias")}
    if patterns[0] == "*norm":
        expected = {name for name in names if "norm" in name} | {"embedding.weight"}
    assert expected and trained(model) == expected


def test_a_tied_head_is_named(tiny, capsys, monkeypatch):
    """If it were not, a user would not know that training the head changes what every token means."""
    monkeypatch.setattr(freeze, "say", print)
    model = freeze.apply(tiny.build(), freeze.Config(head=True), "top")
    said = capsys.readouterr().out
    assert "embedding.weight and output.weight are one" in said
    assert f"{model.embedding.weight.numel():,} of" in said
    assert model.output.weight is model.embedding.weight


@pytest.mark.parametrize(
    ("kind", "settings", "match"),
    [
        ("decoder", {"layers": 0}, "nothing of the model"),
        ("decoder", {"layers": 3}, "no 3 layers"),
        ("decoder", {"patterns": ("blocks.*.atn.q",)}, "no weights of the model fit"),
        ("decoder+embedding", {"head": True}, "no head"),
        ("seq2seq", {"norm": True}, "no norm"),
    ],
)
def test_what_cannot_be_is_refused(tiny, kind, settings, match):
    """A failure would mean that a run trains nothing, or not what was asked for, without a word."""
    model = tiny.build(kind)
    with pytest.raises(UserError, match=match) as caught:
        freeze.apply(model, freeze.Config(**settings), "f")
    if "patterns" in settings:
        assert "blocks.*.attn.q.weight" in str(caught.value)
    assert not trained(model)


@pytest.mark.parametrize("settings", [{"layers": 1}, {"patterns": ("*.q.weight",)}])
def test_quantized_layers_cannot_be_trained(tiny, settings):
    """A failure would mean that only norms and biases are trained where the user asked for whole layers."""
    model = quantize.apply(tiny.build(), quantize.Config(), "q")
    with pytest.raises(UserError, match="cannot be trained"):
        freeze.apply(model, freeze.Config(**settings), "f")
