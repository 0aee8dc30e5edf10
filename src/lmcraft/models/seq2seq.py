"""The recurrent sequence-to-sequence model, with additive attention or without.

    encoder   h = [recurrent(x); recurrent(x reversed)] in every layer
    decoder   s_0 = tanh(W [last forward state; last backward state]);   s = recurrent(y);   hidden = s
    attention s_0 = tanh(W [last backward state]);   c = attention over h;   hidden = tanh(W [s; c])

(Sutskever, Vinyals, Le 2014, arXiv:1409.3215; Cho et al. 2014, arXiv:1406.1078; Bahdanau et al. 2015, arXiv:1409.0473.)

1. Every decoder layer, and for an LSTM its cell state too, starts from the encoder layer of the same rank, counted
   from the top. Without attention that is all that the decoder learns of the source.
2. With attention the first decoder layer reads the context beside its state; the layers above are ordinary ones.
   An encoder of one direction starts the decoder from its last state.
3. Target segment n of a row reads source segment n of that row. Documents become rows of their own
   (lmcraft.layers.documents), so neither packing nor padding is seen by the network.
4. Source and target share one vocabulary, and with `shared` one embedding.
5. What is read is the embedding · sqrt(D), as in the Transformer of 2017: vectors that are small enough for a tied head
   would hardly move the gates at the start (held-out loss after 300 steps at twice the learning rate: still 0.2 worse).

Legend: B rows, N documents, T target positions, S source positions, D width, E width of the source's vectors.
Proved by tests/parity/test_seq2seq.py, tests/unit/models/test_seq2seq.py and tests/contract/test_models.py.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from ..core.config import Strict
from ..layers.additive import AttentiveRecurrent
from ..layers.documents import Documents, names
from ..layers.memory import SourcedState
from ..layers.recurrent import Recurrent
from ..layers.source import Source
from .presets import Preset, fill


class Config(Strict):
    """A recurrent sequence-to-sequence model."""

    kind: Literal["seq2seq"] = "seq2seq"
    preset: Preset | None = Field(None, description="sizes by one word: nano, tiny, small, base")
    cell: Literal["rnn", "lstm"] = "lstm"
    vocab: int | None = Field(
        None, gt=0, description="vocabulary size, source and target; default: the tokenizer's"
    )
    context: int = Field(
        256, gt=0, description="longest source or target in training; the state has no limit of its own"
    )
    layers: int = Field(2, gt=0, description="layers of the decoder")
    encoder_layers: int | None = Field(None, gt=0, description="default: as many as the decoder")
    width: int = Field(256, gt=0, description="width of embeddings and states; each direction has this width")
    bidirectional: bool = Field(True, description="the encoder also reads from the end")
    attention: Literal["none", "additive"] = "additive"
    attention_width: int | None = Field(None, gt=0, description="default: width")
    tied: bool = Field(True, description="the output layer is the target's embedding")
    shared: bool = Field(True, description="source and target have one embedding")
    dropout: float = Field(0.0, ge=0, lt=1)

    @model_validator(mode="before")
    @classmethod
    def _fill_preset(cls, values: Any) -> Any:
        return fill("seq2seq", values)

    @model_validator(mode="after")
    def _complete(self) -> Config:
        object.__setattr__(self, "encoder_layers", self.encoder_layers or self.layers)
        object.__setattr__(self, "attention_width", self.attention_width or self.width)
        return self


class Encoder(nn.Module):
    """Recurrent layers over the source, in one direction or both."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.dropout = config.dropout
        self.directions = 2 if config.bidirectional else 1
        self.width = self.directions * config.width
        assert config.encoder_layers
        reads = [config.width, *[self.width] * (config.encoder_layers - 1)]
        self.ahead = nn.ModuleList(Recurrent(config.width, config.cell, inputs) for inputs in reads)
        self.back = nn.ModuleList(
            Recurrent(config.width, config.cell, inputs) for inputs in reads if config.bidirectional
        )

    def forward(self, x_NSD: Tensor, documents: Documents) -> tuple[Tensor, list[list[tuple[Tensor, ...]]]]:
        """Vectors [N, S, E], and the last state of each direction (parts [N, D]) of every layer.

        The backward direction ends at the first token. An empty source leaves a state of zeros.
        """
        finals = []
        for number, ahead in enumerate(self.ahead):
            zero = (x_NSD.new_zeros(len(x_NSD), ahead.hidden.in_features),) * ahead.parts
            parts = ahead.states(x_NSD, zero)
            outputs, ends = [parts[0]], [_last(documents, parts, zero)]
            if self.directions == 2:
                parts = self.back[number].states(documents.reversed(x_NSD), zero)
                outputs.append(documents.reversed(parts[0]))
                ends.append(_last(documents, parts, zero))
            finals.append(ends)
            x_NSD = F.dropout(torch.cat(outputs, dim=-1), self.dropout, self.training)
        return x_NSD, finals


class Seq2Seq(nn.Module):
    """See the module's docstring."""

    generates = True
    reads_source = True

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        width, std = config.width, config.width**-0.5
        self.scale = width**0.5
        self.embedding = nn.Embedding(config.vocab, width)
        self.source_embedding = None if config.shared else nn.Embedding(config.vocab, width)
        for embedding in (self.embedding, self.source_embedding):
            if embedding is not None:
                nn.init.normal_(embedding.weight, std=std)
        self.encoder = Encoder(config)
        attends = config.attention == "additive"
        self.attentive = self.readout = None
        if attends:
            assert config.attention_width
            self.attentive = AttentiveRecurrent(
                width, config.cell, self.encoder.width, config.attention_width
            )
            self.readout = nn.Linear(width + self.encoder.width, width)
        self.layers = nn.ModuleList(Recurrent(width, config.cell) for _ in range(config.layers - attends))
        parts = 2 if config.cell == "lstm" else 1
        start_width = width if attends else self.encoder.width
        self.bridges = nn.ModuleList(
            nn.ModuleList(nn.Linear(start_width, width) for _ in range(parts)) for _ in range(config.layers)
        )
        self.output = nn.Linear(width, config.vocab, bias=False)
        nn.init.normal_(self.output.weight, std=std)
        if config.tied:
            self.output.weight = self.embedding.weight

    @property
    def max_length(self) -> None:
        """A recurrent network has no longest sequence."""
        return None

    def forward(
        self, tokens_BT: Tensor, segments_BT: Tensor | None = None, memory: SourcedState | None = None,
        source: Source | None = None,
    ) -> Tensor:  # fmt: skip
        """Hidden vectors [B, T, D] of every target position.

        Args:
            memory: what `start` gave; its rows continue with these tokens, and the source is in it.
            source: what the target reads where there is no memory; target segment n reads source segment n.
        """
        if segments_BT is None:
            segments_BT = torch.ones_like(tokens_BT)
        x_BTD = self.embedding(tokens_BT) * self.scale
        if memory is None:
            if source is None:
                raise ValueError("a sequence-to-sequence model needs a source, or a memory that holds it")
            names_N = names(segments_BT)
            memory = self._encoded(source.tokens_BS, Documents(source.segments_BS, names_N))
        else:
            segments_BT = segments_BT.clamp(max=1)
            names_N = names(torch.ones_like(tokens_BT[:, :1]))
        documents = Documents(segments_BT, names_N)
        return documents.put(self._decoded(documents.take(x_BTD), documents, memory))

    def head(self, hidden: Tensor) -> Tensor:
        """Logits [..., V]."""
        return self.output(hidden)

    def start(self, rows: int, length: int, source: Source) -> SourcedState:
        """The state from which `rows` targets begin, one for each row of the source; `length` does not matter."""
        if len(source.tokens_BS) != rows:
            raise ValueError(f"{rows} rows cannot read {len(source.tokens_BS)} sources")
        names_N = names(torch.ones_like(source.tokens_BS[:, :1]))
        return self._encoded(source.tokens_BS, Documents(source.segments_BS.clamp(max=1), names_N))

    def _encoded(self, tokens_BS: Tensor, documents: Documents) -> SourcedState:
        """Reads the sources of N documents: how their targets begin, and what they look at."""
        embedding = self.embedding if self.source_embedding is None else self.source_embedding
        x_NSD = documents.take(embedding(tokens_BS) * self.scale)
        h_NSE, finals = self.encoder(F.dropout(x_NSD, self.config.dropout, self.training), documents)
        layers = []
        for number, bridge in enumerate(self.bridges):
            ends = finals[max(0, number + len(finals) - len(self.bridges))]
            ends = ends[-1:] if self.attentive is not None else ends
            parts = [torch.cat(both, dim=-1) for both in zip(*ends, strict=True)]
            layers.append(tuple(torch.tanh(w(part)) for w, part in zip(bridge, parts, strict=True)))
        if self.attentive is None:
            return SourcedState(layers, ())
        return SourcedState(layers, self.attentive.attention.prepare(h_NSE, documents.real_NT))

    def _decoded(self, x_NTD: Tensor, documents: Documents, memory: SourcedState) -> Tensor:
        """Hidden vectors [N, T, D]; the memory moves to the last token of each document."""
        dropout = self.config.dropout
        x_NTD = F.dropout(x_NTD, dropout, self.training)
        contexts: list[Tensor] = []
        for number, before in enumerate(memory.layers):
            if self.attentive is not None and number == 0:
                parts, context_NTE = self.attentive.states(x_NTD, before, memory.source)
                contexts.append(context_NTE)
            else:
                parts = self.layers[number - len(contexts)].states(x_NTD, before)
            memory.layers[number] = _last(documents, parts, before)
            x_NTD = F.dropout(parts[0], dropout, self.training)
        if self.readout is None:
            return x_NTD
        return F.dropout(
            torch.tanh(self.readout(torch.cat((x_NTD, *contexts), dim=-1))), dropout, self.training
        )


def _last(documents: Documents, parts: tuple[Tensor, ...], before: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The state after the last token of each document."""
    return tuple(documents.last(part, old) for part, old in zip(parts, before, strict=True))


def build(config: Config) -> Seq2Seq:
    """A sequence-to-sequence model with fresh weights."""
    return Seq2Seq(config)
