"""The recurrent sequence-to-sequence model against the papers' equations, built for one pair from torch's own cells."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from lmcraft.layers.source import Source
from lmcraft.models import seq2seq
from lmcraft.models.seq2seq import Config, Seq2Seq

VOCAB, WIDTH = 23, 6
SETTINGS = {
    "lstm": {"attention": "none"},
    "rnn": {"attention": "none", "cell": "rnn"},
    "lstm-one-way": {"attention": "none", "bidirectional": False, "shared": False},
    "lstm-low-encoder": {"attention": "none", "encoder_layers": 1},
    "lstm-high-encoder": {"attention": "none", "encoder_layers": 3},
    "lstm-attention": {"attention_width": 5},
    "rnn-attention": {"cell": "rnn", "layers": 1},
    "lstm-attention-one-way": {"bidirectional": False, "tied": False, "shared": False, "layers": 3},
}
LENGTHS = [(5, 4), (1, 6), (7, 1), (3, 3)]  # of source and target


class Reference:
    """Hidden vectors of one pair without padding; `gradients` gives those of our parameters by name."""

    def __init__(self, model: Seq2Seq) -> None:
        self.model, self.recurrent = copy.deepcopy(model), {}
        config = model.config
        self.lstm = config.cell == "lstm"
        whole = nn.LSTM if self.lstm else nn.RNN
        cell = nn.LSTMCell if self.lstm else nn.RNNCell
        encoder = model.encoder
        self.encoder = whole(WIDTH, WIDTH, len(encoder.ahead), bidirectional=config.bidirectional).double()
        for number in range(len(encoder.ahead)):
            self._tie(f"encoder.ahead.{number}", self.encoder, f"_l{number}")
            if config.bidirectional:
                self._tie(f"encoder.back.{number}", self.encoder, f"_l{number}_reverse")
        if model.attentive is not None:
            self.first = cell(WIDTH + encoder.width, WIDTH).double()
            self._tie("attentive.cell", self.first, "")
            self.above = [cell(WIDTH, WIDTH).double() for _ in model.layers]
            for number, layer in enumerate(self.above):
                self._tie(f"layers.{number}", layer, "")
        else:
            self.decoder = whole(WIDTH, WIDTH, len(model.layers)).double()
            for number in range(len(model.layers)):
                self._tie(f"layers.{number}", self.decoder, f"_l{number}")

    @torch.no_grad()
    def _tie(self, name: str, theirs: nn.Module, suffix: str) -> None:
        """Copies one of our recurrent layers; what it reads beside its state is an input like any other to torch."""
        ours = self.model.get_submodule(name)
        beside = ours.hidden.in_features - WIDTH
        ih, hh = getattr(theirs, f"weight_ih{suffix}"), getattr(theirs, f"weight_hh{suffix}")
        b = getattr(theirs, f"bias_ih{suffix}")
        ih.copy_(torch.cat((ours.input.weight, ours.hidden.weight[:, WIDTH:]), dim=1))
        hh.copy_(ours.hidden.weight[:, :WIDTH])
        b.copy_(ours.input.bias)
        getattr(theirs, f"bias_hh{suffix}").zero_()
        split = ih.shape[1] - beside
        self.recurrent[f"{name}.input.weight"] = lambda: ih.grad[:, :split]
        self.recurrent[f"{name}.input.bias"] = lambda: b.grad
        self.recurrent[f"{name}.hidden.weight"] = lambda: torch.cat((hh.grad, ih.grad[:, split:]), dim=1)

    def gradients(self) -> dict[str, Tensor]:
        own = {name: parameter.grad for name, parameter in self.model.named_parameters()}
        return own | {name: gradient() for name, gradient in self.recurrent.items()}

    def encode(self, source_S: Tensor) -> tuple[Tensor, list[tuple[Tensor, ...]]]:
        """Annotations h [S, E] and the decoder's first state, layer by layer."""
        model, directions = self.model, self.model.encoder.directions
        embedding = model.embedding if model.source_embedding is None else model.source_embedding
        h_SE, final = self.encoder(embedding(source_S) * model.scale)
        final = final if self.lstm else (final,)
        layers, below = len(model.bridges), len(model.encoder.ahead)
        start = []
        for number in range(layers):
            rank = max(0, below - layers + number)
            parts = []
            for part, bridge in zip(final, model.bridges[number], strict=True):
                ends = part[rank * directions : (rank + 1) * directions]
                ends = ends[-1:] if model.attentive is not None else ends
                parts.append(torch.tanh(bridge.weight @ ends.flatten() + bridge.bias))
            start.append(tuple(parts))
        return h_SE, start

    def hidden(self, source_S: Tensor, target_T: Tensor) -> Tensor:
        h_SE, start = self.encode(source_S)
        y_TD = self.model.embedding(target_T) * self.model.scale
        if self.model.attentive is None:
            first = tuple(torch.stack(part) for part in zip(*start, strict=True))
            return self.decoder(y_TD, first if self.lstm else first[0])[0]
        attention, states, out = self.model.attentive.attention, start, []
        for y_D in y_TD:
            s_D = states[0][0]
            energies = [
                attention.score.weight[0]
                @ torch.tanh(attention.query.weight @ s_D + attention.query.bias + attention.key.weight @ h_E)
                for h_E in h_SE
            ]
            weights = torch.exp(torch.stack(energies)) / torch.exp(torch.stack(energies)).sum()
            c_E = sum(weight * h_E for weight, h_E in zip(weights, h_SE, strict=True))
            x_D, after = torch.cat((y_D, c_E)), []
            for layer, state in zip([self.first, *self.above], states, strict=True):
                new = layer(x_D, state if self.lstm else state[0])
                after.append(new if self.lstm else (new,))
                x_D = after[-1][0]
            states = after
            readout = self.model.readout
            out.append(torch.tanh(readout.weight @ torch.cat((x_D, c_E)) + readout.bias))
        return torch.stack(out)


def make(settings: dict) -> Seq2Seq:
    torch.manual_seed(0)
    model = seq2seq.build(Config(**{"vocab": VOCAB, "width": WIDTH, "layers": 2} | settings)).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return model


def pairs() -> list[tuple[Tensor, Tensor]]:
    torch.manual_seed(1)
    return [(torch.randint(0, VOCAB, (s,)), torch.randint(0, VOCAB, (t,))) for s, t in LENGTHS]


def rows(texts: list[list[Tensor | None]], gap: int) -> tuple[Tensor, Tensor]:
    """Texts packed row by row with `gap` padding tokens before each; their ids and segments."""
    width = max(sum(gap + (0 if text is None else len(text)) for text in row) for row in texts)
    ids_BT = torch.full((len(texts), width), VOCAB - 1)
    segments_BT = torch.zeros_like(ids_BT)
    for b, row in enumerate(texts):
        place = 0
        for number, text in enumerate(row, start=1):
            place += gap
            if text is not None:
                ids_BT[b, place : place + len(text)] = text
                segments_BT[b, place : place + len(text)] = number
                place += len(text)
    return ids_BT, segments_BT


every = pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
LAYOUTS = {
    "one-a-row": ([[0], [1], [2], [3]], 0),
    "packed": ([[0, 1, 2], [3]], 0),
    "gaps": ([[2, 0], [1, 3]], 2),
}


@every
@pytest.mark.parametrize("layout,gap", LAYOUTS.values(), ids=LAYOUTS)
def test_hidden_vectors_and_gradients_are_those_of_the_papers(settings, layout, gap):
    """A difference would mean another model than the papers', or pairs of a row or padding that show in each other."""
    model, texts = make(settings), pairs()
    reference = Reference(model)
    sources_BS = rows([[texts[n][0] for n in row] for row in layout], gap)
    targets_BT, segments_BT = rows([[texts[n][1] for n in row] for row in layout], gap)
    found_BTD = model(targets_BT, segments_BT, None, Source(*sources_BS))
    parts = []
    for b, row in enumerate(layout):
        for number, n in enumerate(row, start=1):
            expected_TD = reference.hidden(*texts[n])
            found_TD = found_BTD[b, segments_BT[b] == number]
            torch.testing.assert_close(found_TD, expected_TD, rtol=0, atol=1e-12)
            direction_TD = torch.randn(expected_TD.shape, generator=torch.Generator().manual_seed(n)).double()
            parts.append(((found_TD * direction_TD).sum(), (expected_TD * direction_TD).sum()))
    for loss in map(sum, zip(*parts, strict=True)):
        loss.backward()
    expected = reference.gradients()
    for name, parameter in model.named_parameters():
        if not name.startswith("output"):
            torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-8, atol=1e-10, msg=name)


@every
def test_generation_is_that_of_the_papers(settings):
    """A difference would mean that a translation depends on its batch, or on beams that were kept or dropped."""
    model, texts = make(settings), pairs()
    reference = Reference(model)
    prefixes = [text[:2] for _, text in texts]
    with torch.no_grad():
        memory = model.start(4, 9, Source(*rows([[source] for source, _ in texts], 0)))
        first = model(*rows([[prefix] for prefix in prefixes], 0), memory)
        kept = [3, 0, 0, 1, 2]
        memory.keep(kept)
        for step in range(3):
            ids = torch.tensor([[beam + step] for beam in range(len(kept))])
            found = model(ids, None, memory)
            for beam, n in enumerate(kept):
                whole = torch.cat((prefixes[n], torch.tensor([beam + old for old in range(step + 1)])))
                expected_TD = reference.hidden(texts[n][0], whole)
                torch.testing.assert_close(found[beam, 0], expected_TD[-1], rtol=0, atol=1e-12)
                torch.testing.assert_close(
                    first[n, : len(prefixes[n])], expected_TD[: len(prefixes[n])], rtol=0, atol=1e-12
                )


@every
def test_a_target_without_source_is_finite(settings):
    """A failure would mean that one pair without a source turns the whole training into NaN."""
    model, texts = make(settings), pairs()
    source = Source(*rows([[None, texts[0][0]], [texts[1][0], None]], 0))
    tokens_BT, segments_BT = rows([[texts[0][1], texts[1][1]], [texts[2][1], texts[3][1]]], 0)
    hidden_BTD = model(tokens_BT, segments_BT, None, source)
    hidden_BTD.square().sum().backward()
    assert hidden_BTD.isfinite().all()
    assert all(p.grad.isfinite().all() for name, p in model.named_parameters() if name != "output.weight")
    alone = model(texts[1][1][None], None, None, Source(*rows([[texts[0][0]]], 0)))
    torch.testing.assert_close(hidden_BTD[:1, segments_BT[0] == 2], alone, rtol=0, atol=1e-12)


def test_a_source_is_asked_for():
    """A failure would mean that a translation of nothing is invented."""
    model = make({})
    with pytest.raises(ValueError, match="needs a source"):
        model(torch.zeros(1, 2, dtype=torch.long))
    with pytest.raises(ValueError, match="2 rows cannot read 1 sources"):
        model.start(2, 5, Source.of(torch.zeros(1, 3, dtype=torch.long)))
