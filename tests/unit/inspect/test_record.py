"""What is recorded is the attention that the model used, and nothing is left behind."""

from __future__ import annotations

import pytest
import torch

from lmcraft.inspect.record import CROSS, ENCODER, SELF, maps, recorded, sides
from lmcraft.layers.source import Source

TOKENS = [[5, 9, 30, 9, 70, 2]]


def test_weights_are_the_softmax_of_queries_and_keys(language_model) -> None:
    """If this failed, the page would show attention that the model did not use."""
    model = language_model("decoder", positions="learned", kv_heads=2).model
    tokens_BT = torch.tensor(TOKENS)
    inputs = []
    attn = model.blocks[1].attn
    handle = attn.register_forward_pre_hook(lambda _, arguments: inputs.append(arguments[0]))
    with torch.no_grad(), recorded(model) as found:
        model(tokens_BT)
    handle.remove()
    x_TD = inputs[0][0]
    q_THC = (x_TD @ attn.q.weight.T).view(6, 4, 8)
    k_TKC = (x_TD @ attn.k.weight.T).view(6, 2, 8)
    [seen_BHTM] = found["blocks.1.attn"]
    for head in range(4):
        scores_TM = q_THC[:, head] @ k_TKC[:, head // 2].T / 8**0.5
        for t in range(6):
            expected = torch.softmax(scores_TM[t, : t + 1], dim=0)
            assert torch.allclose(seen_BHTM[0, head, t, : t + 1], expected, atol=1e-6)
            assert seen_BHTM[0, head, t, t + 1 :].count_nonzero() == 0


def test_nothing_is_left_behind(language_model) -> None:
    """If this failed, a model that was looked at once would gather weights until memory is full."""
    model = language_model("decoder").model
    with pytest.raises(IndexError), recorded(model) as found:
        model(torch.tensor([[10**6]]))
    assert all(module.record is None for module in model.modules() if hasattr(module, "record"))
    assert set(found) == {f"blocks.{layer}.attn" for layer in range(3)}


def test_sides_are_told_by_what_they_join(language_model) -> None:
    """If this failed, the source's own attention would stand under the target's tokens."""
    model = language_model("encdec", layers=2, encoder_layers=1).model
    assert sides(model) == {
        "encoder.blocks.0.attn": ENCODER,
        "decoder.blocks.0.attn": SELF, "decoder.blocks.0.cross": CROSS,
        "decoder.blocks.1.attn": SELF, "decoder.blocks.1.cross": CROSS,
    }  # fmt: skip
    with torch.no_grad(), recorded(model) as found:
        model(torch.tensor(TOKENS), source=Source.of(torch.tensor([[3, 4, 5, 6]])))
    listed = maps(found, sides(model))
    assert [(one.side, one.layer, tuple(one.weights_HTM.shape)) for one in listed] == [
        (ENCODER, 0, (4, 4, 4)), (SELF, 0, (4, 6, 6)), (SELF, 1, (4, 6, 6)),
        (CROSS, 0, (4, 6, 4)), (CROSS, 1, (4, 6, 4)),
    ]  # fmt: skip
    assert set(sides(language_model("decoder").model).values()) == {SELF}
    assert sides(language_model("rnn").model) == {}
