"""The recurrent sequence-to-sequence model learns where to look, and its settings have sensible defaults."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from lmcraft.layers.source import Source
from lmcraft.models import seq2seq
from lmcraft.models.seq2seq import Config, Seq2Seq

BEGIN, LENGTH = 0, 6


def texts(rows: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Random sources, and each read from its end."""
    source_BS = torch.randint(1, 11, (rows, LENGTH), generator=generator)
    return source_BS, source_BS.flip(1)


def with_begin(target_BT: torch.Tensor) -> torch.Tensor:
    return F.pad(target_BT[:, :-1], (1, 0), value=BEGIN)


def trained(steps: int) -> tuple[Seq2Seq, torch.Generator]:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = seq2seq.build(Config(vocab=11, layers=1, width=32))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        source_BS, target_BT = texts(32, generator)
        hidden_BTD = model(with_begin(target_BT), source=Source.of(source_BS))
        loss = F.cross_entropy(model.head(hidden_BTD).flatten(0, 1), target_BT.flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return model.eval(), generator


def test_attention_learns_to_read_backwards():
    """A failure would mean that attention does not find the source position that it needs, or shows another one."""
    model, generator = trained(300)
    source_BS, target_BT = texts(100, generator)
    assert model.attentive is not None
    with torch.no_grad():
        memory = model.start(100, LENGTH, Source.of(source_BS))
        model.attentive.attention.record = []
        tokens_B1, written = torch.full((100, 1), BEGIN), []
        for _ in range(LENGTH):
            tokens_B1 = model.head(model(tokens_B1, None, memory)).argmax(dim=-1)
            written.append(tokens_B1)
    right = (torch.cat(written, dim=1) == target_BT).float().mean()
    assert right > 0.95, f"{right:.3f} of the tokens"
    weights_BTS = torch.cat(model.attentive.attention.record, dim=2)[:, 0]
    aligned = (weights_BTS.argmax(dim=-1) == torch.arange(LENGTH - 1, -1, -1)).float().mean()
    assert aligned > 0.85, f"{aligned:.3f} of the steps"


def test_defaults_follow_the_given_sizes():
    """A failure would mean that a model gets another size than its config shows."""
    config = Config(layers=3, width=48)
    assert (config.encoder_layers, config.attention_width) == (3, 48)
    config = Config(layers=3, width=48, encoder_layers=1, attention_width=20)
    assert (config.encoder_layers, config.attention_width) == (1, 20)
    assert Config(**config.model_dump()) == config
