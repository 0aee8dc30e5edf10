"""The encoder-decoder against `torch.nn.Transformer`: same weights, same hidden vectors, same gradients."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lmcraft.layers.source import Source
from lmcraft.models import encdec

WIDTH, HEADS, LAYERS, VOCAB = 24, 4, 2, 31


def pair(placement: str) -> tuple[encdec.EncDec, nn.Transformer]:
    """Our model and torch's with the same random weights, float64."""
    torch.manual_seed(0)
    config = encdec.Config(
        vocab=VOCAB, width=WIDTH, heads=HEADS, layers=LAYERS, mlp_width=40, placement=placement, tied=False
    )
    ours = encdec.build(config).double().eval()
    pre = placement == "pre"
    theirs = nn.Transformer(
        WIDTH, HEADS, LAYERS, LAYERS, 40, dropout=0.0, batch_first=True, norm_first=pre, dtype=torch.float64
    ).eval()
    if not pre:  # torch ends both stacks with a norm that the paper does not have
        theirs.encoder.norm, theirs.decoder.norm = nn.Identity(), nn.Identity()
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
        for stack, blocks in ((ours.encoder, theirs.encoder), (ours.decoder, theirs.decoder)):
            for mine, other in zip(stack.blocks, blocks.layers, strict=True):
                copy(mine, other)
            if pre:
                copy_norm(stack.norm, blocks.norm)
    return ours, theirs


def copy(mine, other) -> None:
    """One block's weights into torch's layer."""
    copy_attention(mine.attn, other.self_attn)
    copy_norm(mine.attn_norm, other.norm1)
    if mine.cross is not None:
        copy_attention(mine.cross, other.multihead_attn)
        copy_norm(mine.cross_norm, other.norm2)
        copy_norm(mine.mlp_norm, other.norm3)
    else:
        copy_norm(mine.mlp_norm, other.norm2)
    for ours, theirs in ((mine.mlp.up, other.linear1), (mine.mlp.down, other.linear2)):
        theirs.weight.copy_(ours.weight)
        theirs.bias.copy_(ours.bias)


def copy_attention(mine, other) -> None:
    other.in_proj_weight.copy_(torch.cat([mine.q.weight, mine.k.weight, mine.v.weight]))
    other.in_proj_bias.copy_(torch.cat([mine.q.bias, mine.k.bias, mine.v.bias]))
    other.out_proj.weight.copy_(mine.out.weight)
    other.out_proj.bias.copy_(mine.out.bias)


def copy_norm(mine, other) -> None:
    other.weight.copy_(mine.weight)
    other.bias.copy_(mine.bias)


@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
@pytest.mark.parametrize("placement", ["post", "pre"])
def test_hidden_vectors_and_gradients_equal_torch(placement):
    """A difference would mean that this is not the Transformer of the paper."""
    ours, theirs = pair(placement)
    draw = torch.Generator().manual_seed(1)
    tokens_BT = torch.randint(0, VOCAB, (3, 9), generator=draw)
    source_BS = torch.randint(0, VOCAB, (3, 7), generator=draw)
    segments_BS = torch.tensor([[1] * 7, [1] * 4 + [0] * 3, [1] * 2 + [0] * 5])
    embedded = [ours.embedding(ids) for ids in (source_BS, tokens_BT)]
    places = [positions(x.shape[1]) for x in embedded]
    x_BSD, y_BTD = (x * WIDTH**0.5 + p for x, p in zip(embedded, places, strict=True))
    causal = nn.Transformer.generate_square_subsequent_mask(9, dtype=torch.float64)
    padding = segments_BS == 0
    expected = theirs(
        x_BSD, y_BTD, tgt_mask=causal, src_key_padding_mask=padding, memory_key_padding_mask=padding
    )
    found = ours(tokens_BT, source=Source(source_BS, segments_BS))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)  # positions are float32
    weight = torch.randn(expected.shape, generator=draw, dtype=torch.float64)
    gradients = [
        torch.autograd.grad((out * weight).sum(), ours.embedding.weight)[0] for out in (expected, found)
    ]
    torch.testing.assert_close(gradients[1], gradients[0], rtol=0, atol=1e-5)


def positions(length: int) -> torch.Tensor:
    """The paper's formula, written once more: sin at even, cos at odd dimensions."""
    table = torch.zeros(length, WIDTH, dtype=torch.float64)
    for place in range(length):
        for i in range(0, WIDTH, 2):
            angle = torch.tensor(place / 10000 ** (i / WIDTH), dtype=torch.float64)
            table[place, i], table[place, i + 1] = angle.sin(), angle.cos()
    return table
