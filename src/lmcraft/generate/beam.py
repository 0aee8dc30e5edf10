"""Beam search: keeps the likeliest few beginnings of each answer and returns the best whole one.

    score(y) = log p(y | x) / lp(|y|),   lp(n) = ((5 + n) / 6)^α     (Wu et al., arXiv 1609.08144, equation 14)

1. A beam that ends with a stop token is finished and keeps its score; the others go on. A request is done when no
   beam that is still open could reach the best finished one, or at the token limit.
2. With α ≥ 0 a longer answer has the better denominator, so an open beam is judged by the longest that it may become.
3. An answer counts as finished only if its end was among the likeliest `beams` candidates of its step. So one beam is
   greedy decoding; with as many beams as there are answers the search is exhaustive.
4. All requests run in one batch; rows of the memory are copied as beams branch.

Legend: N rows (requests × beams), V vocabulary.
Proved by tests/unit/generate/test_beam.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from pydantic import Field
from torch import Tensor

from ..core.config import Strict
from .engine import Completion, Engine, padded


class Beams(Strict):
    """How wide to search, and how length is judged."""

    beams: int = Field(4, gt=0, le=64)
    length_penalty: float = Field(
        0.6, ge=0, le=10, description="α: 0 compares sums, larger favours long answers"
    )
    max_new_tokens: int = Field(128, gt=0, le=1_000_000)


@dataclass(frozen=True)
class _Beam:
    """A beginning of an answer with the log-probability of each of its tokens, and the memory row it came from."""

    tokens: list[int]
    logprobs: list[float]
    total: float
    row: int


@dataclass
class _Request:
    """One search while it runs."""

    number: int
    room: int
    open: list[_Beam]
    best: tuple[float, _Beam] | None = None
    finish_reason: str = "length"
    done: bool = field(default=False)


@torch.inference_mode()
def search(
    engine: Engine, prompts: Sequence[Sequence[int]], beams: Beams, sources: Sequence[Sequence[int]] | None = None,
    batch_size: int = 16,
) -> list[Completion]:  # fmt: skip
    """The best answer found for each prompt (lists of ids), in order; `sources` for models that read one."""
    found: list[Completion | None] = [None] * len(prompts)
    order = sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), len(sources[i]) if sources else 0))
    was_training = engine.model.training
    engine.model.eval()
    try:
        for start in range(0, len(order), batch_size):
            part = order[start : start + batch_size]
            texts = None if sources is None else [sources[i] for i in part]
            for i, answer in zip(part, _batch(engine, [prompts[i] for i in part], beams, texts), strict=True):
                found[i] = answer
    finally:
        engine.model.train(was_training)
    return [completion for completion in found if completion is not None]


def _batch(
    engine: Engine, prompts: Sequence[Sequence[int]], beams: Beams, sources: Sequence[Sequence[int]] | None
) -> list[Completion]:
    rooms = [engine.room(i, prompt, beams.max_new_tokens) for i, prompt in enumerate(prompts)]
    requests = [_Request(i, room, [_Beam([], [], 0.0, i)]) for i, room in enumerate(rooms)]
    memory = engine.start(len(prompts), max(len(p) + r for p, r in zip(prompts, rooms, strict=True)), sources)
    tokens_NT, segments_NT = padded(prompts, engine.device)
    hidden_NTD = engine.model(tokens_NT, segments_NT, memory)
    hidden_ND = hidden_NTD[torch.arange(len(prompts)), segments_NT.sum(dim=1) - 1]
    running = requests
    while True:
        logprobs_NV = torch.log_softmax(engine.model.head(hidden_ND).float(), dim=-1).double().cpu()
        for request in running:
            _extend(request, logprobs_NV, beams, engine.stop_ids)
        running = [request for request in running if not request.done]
        if not running:
            return [_completion(engine, request) for request in requests]
        memory.keep([beam.row for request in running for beam in request.open])
        last = [beam.tokens[-1] for request in running for beam in request.open]
        rows = iter(range(len(last)))
        for request in running:
            request.open = [_Beam(b.tokens, b.logprobs, b.total, next(rows)) for b in request.open]
        hidden_ND = engine.model(torch.tensor(last, device=engine.device)[:, None], None, memory)[:, -1]


def _extend(request: _Request, logprobs_NV: Tensor, beams: Beams, stop_ids: Sequence[int]) -> None:
    """One more token for every open beam; the best of the finished ones is kept."""
    totals_WV = torch.stack([logprobs_NV[beam.row] + beam.total for beam in request.open])
    # so many that enough stay open although every stop token of every beam is among them
    wanted = min(beams.beams + len(stop_ids) * len(request.open), totals_WV.numel())
    values, places = totals_WV.flatten().topk(wanted)
    grown: list[_Beam] = []
    for rank, (total, place) in enumerate(zip(values.tolist(), places.tolist(), strict=True)):
        parent, token = request.open[place // totals_WV.shape[1]], place % totals_WV.shape[1]
        logprob = float(logprobs_NV[parent.row, token])
        beam = _Beam([*parent.tokens, token], [*parent.logprobs, logprob], total, parent.row)
        if token in stop_ids:
            if rank < beams.beams:
                _finish(request, beam, beams, "stop")
        elif len(grown) < beams.beams:
            grown.append(beam)
    request.open = grown
    if grown and len(grown[0].tokens) >= request.room:
        for beam in grown:
            _finish(request, beam, beams, "length")
        request.done = True
    elif request.best is not None:
        reach = max((beam.total for beam in grown), default=float("-inf")) / _penalty(request.room, beams)
        request.done = request.best[0] >= reach


def _finish(request: _Request, beam: _Beam, beams: Beams, reason: str) -> None:
    score = beam.total / _penalty(len(beam.tokens), beams)
    if request.best is None or score > request.best[0]:
        request.best, request.finish_reason = (score, beam), reason


def _penalty(length: int, beams: Beams) -> float:
    return ((5 + length) / 6) ** beams.length_penalty


def _completion(engine: Engine, request: _Request) -> Completion:
    assert request.best is not None
    beam = request.best[1]
    words = beam.tokens[:-1] if request.finish_reason == "stop" else beam.tokens
    return Completion(engine.tokenizer.decode(words), beam.tokens, beam.logprobs, request.finish_reason)
