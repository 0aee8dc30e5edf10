"""The Engine: one way to generate text and to score it, for every model.

1. Prefill reads all prompts at once, padded at the end, and one that several requests share only once; decode then
   adds one token a row. Memory is allocated once for all that are read together.
2. Rows that are done leave the batch, and when enough have left, requests that wait take their places (continuous
   batching; Yu et al., Orca, 2022): no row waits for the longest answer of its batch.
3. A request's text depends on the request alone: its random numbers come from its own seed, and padding is never seen.
4. `score` gives the log-probability of a continuation after a context, token by token, under the same rule as
   training: position t predicts t+1.
5. A model that reads a source gets one for each prompt; the prompt then begins the target.

Legend: B rows, T positions, S source positions, D width, V vocabulary.
Proved by tests/contract/test_engine.py.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..core.errors import UserError
from ..layers.memory import Memory
from ..layers.source import Source
from ..text.tokenizer import Tokenizer
from .sampling import Sampling, choose_each, generator
from .stop import StopWatch

# New requests are read when no more than this share of the batch is left: together they cost less than one by one.
REFILL = 0.75


@dataclass(frozen=True)
class Completion:
    """A generated answer.

    `tokens` includes the stop token if one ended it; `logprobs` (nats, natural distribution) has one entry a token;
    `finish_reason` is "stop" (stop token or string) or "length".
    """

    text: str
    tokens: list[int]
    logprobs: list[float]
    finish_reason: str


@dataclass(frozen=True)
class Score:
    """How likely a continuation is: total log-probability (nats), one entry a token, and whether greedy gives it."""

    logprob: float
    tokens: list[float]
    is_greedy: bool


@dataclass(frozen=True)
class Piece:
    """What one decode step added to one request: text that is certain by now, and at the end the completion."""

    request: int
    text: str
    completion: Completion | None


@dataclass
class _Row:
    """One request while it runs."""

    request: int
    watch: StopWatch
    sampling: Sampling
    draw: np.random.Generator
    seen: set[int]
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)


class Engine:
    """Generates and scores with one model.

    Args:
        stop_ids: tokens that end an answer; default: the tokenizer's eos and end of turn.
    """

    def __init__(self, model: nn.Module, tokenizer: Tokenizer, stop_ids: Sequence[int] | None = None) -> None:
        self.model, self.tokenizer = model, tokenizer
        known = (tokenizer.eos, tokenizer.end_of_turn)
        self.stop_ids = list(stop_ids) if stop_ids is not None else [i for i in known if i is not None]

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling | Sequence[Sampling], batch_size: int = 32,
        sources: Sequence[Sequence[int]] | None = None,
    ) -> list[Completion]:  # fmt: skip
        """One completion for each prompt (lists of ids), in order; `sources` for models that read one."""
        samplings = [sampling] * len(prompts) if isinstance(sampling, Sampling) else list(sampling)
        done: list[Completion | None] = [None] * len(prompts)
        order = sorted(
            range(len(prompts)), key=lambda i: (len(prompts[i]), len(sources[i]) if sources else 0)
        )
        texts = None if sources is None else [sources[i] for i in order]
        requests = [prompts[i] for i in order], [samplings[i] for i in order], texts
        for piece in self.stream(*requests, whole=True, batch_size=batch_size):
            done[order[piece.request]] = piece.completion
        return [completion for completion in done if completion is not None]

    @torch.inference_mode()
    def stream(
        self, prompts: Sequence[Sequence[int]], samplings: Sequence[Sampling],
        sources: Sequence[Sequence[int]] | None = None, whole: bool = False, batch_size: int | None = None,
    ) -> Iterator[Piece]:  # fmt: skip
        """Pieces of all answers as they come; each request ends with a piece that has its completion.

        Args:
            whole: only these last pieces are wanted.
            batch_size: how many requests run at the same time; default: all.
        """
        requests = zip(prompts, samplings, strict=True)
        waiting = deque(self._row(i, prompt, sampling) for i, (prompt, sampling) in enumerate(requests))
        size = batch_size or max(1, len(waiting))
        rows: list[_Row] = []
        memory, logits_BV = None, torch.empty(0)
        was_training = self.model.training
        self.model.eval()
        try:
            while rows or waiting:
                if waiting and len(rows) <= size * REFILL:
                    new = [waiting.popleft() for _ in range(min(size - len(rows), len(waiting)))]
                    memory, logits_BV = self._admitted(
                        new, prompts, sources, memory if rows else None, logits_BV
                    )
                    rows = rows + new
                next_tokens, logprobs = _chosen(logits_BV.cpu(), rows)
                for row, token, logprob in zip(rows, next_tokens, logprobs, strict=True):
                    row.tokens.append(token)
                    row.logprobs.append(logprob)
                    row.seen.add(token)
                    row.watch.add(token)
                    if row.watch.finish_reason is not None:
                        yield Piece(row.request, row.watch.fresh(), self._completion(row))
                    elif not whole and (text := row.watch.fresh()):
                        yield Piece(row.request, text, None)
                alive = _staying([row.watch.finish_reason is None for row in rows])
                if len(alive) < len(rows):
                    rows = [rows[i] for i in alive]
                    next_tokens = [next_tokens[i] for i in alive]
                    if not rows:
                        continue
                    memory.keep(alive)
                tokens_B1 = torch.tensor(next_tokens, device=self.device)[:, None]
                logits_BV = self.model.head(self.model(tokens_B1, None, memory)[:, -1])
        finally:
            self.model.train(was_training)

    def start(self, rows: int, room: int, sources: Sequence[Sequence[int]] | None) -> Memory:
        """The model's memory for `rows` texts of at most `room` tokens, their sources read.

        Raises:
            UserError: the model does not generate, or a source is missing, unwanted or too long.
        """
        self._check(sources)
        if not self.model.generates:
            raise UserError(
                "this model does not generate text", why="it reads a text as a whole and has no next token",
                fix="use it for what it was made: masked words, classes, tags or embeddings",
            )  # fmt: skip
        if sources is None:
            return self.model.start(rows, room)
        return self.model.start(rows, room, self._source(sources))

    def _check(self, sources: Sequence[Sequence[int]] | None) -> None:
        if self.model.reads_source != (sources is not None):
            needs = "needs a source text" if self.model.reads_source else "reads no source"
            raise UserError(f"this model {needs}", why=f"it is of kind {self.model.config.kind}")
        longest = self.model.max_length
        if sources and longest is not None and max(map(len, sources)) > longest:
            raise UserError(
                f"a source of {max(map(len, sources))} tokens is too long",
                why=f"the model reads at most {longest}", fix="shorten it, or cut it into sentences",
            )  # fmt: skip

    def _source(self, sources: Sequence[Sequence[int]]) -> Source:
        return Source(*padded(sources, self.device))

    def _row(self, request: int, prompt: Sequence[int], sampling: Sampling) -> _Row:
        room = self.room(request, prompt, sampling.max_new_tokens)
        watch = StopWatch(self.tokenizer.decode, self.stop_ids, sampling.stop, room)
        return _Row(request, watch, sampling, generator(sampling.seed), set(prompt))

    def room(self, request: int, prompt: Sequence[int], wanted: int) -> int:
        """How many of the wanted new tokens fit behind a prompt.

        Raises:
            UserError: none, or the prompt is empty.
        """
        longest = self.model.max_length
        room = wanted if longest is None else min(wanted, longest - len(prompt))
        if not prompt or room < 1:
            raise UserError(
                f"prompt {request + 1} has {len(prompt)} tokens, which leaves nothing to generate",
                why=f"the model reads at most {longest} tokens" if prompt else "a model continues something",
                fix="shorten the prompt" if prompt else "give at least one token",
            )
        return room

    def _completion(self, row: _Row) -> Completion:
        return Completion(row.watch.text, row.tokens, row.logprobs, str(row.watch.finish_reason))

    def _admitted(
        self, new: Sequence[_Row], prompts: Sequence[Sequence[int]], sources: Sequence[Sequence[int]] | None,
        memory: Any, logits_BV: Tensor,
    ) -> tuple[Any, Tensor]:  # fmt: skip
        """Memory and logits of the rows that run, if any, and of new ones behind them."""
        fresh, logits_NV = self._prefill(new, prompts, sources)
        if memory is None:
            return fresh, logits_NV
        memory.join(fresh)
        return memory, torch.cat((logits_BV, logits_NV))

    def _prefill(
        self, new: Sequence[_Row], prompts: Sequence[Sequence[int]], sources: Sequence[Sequence[int]] | None
    ) -> tuple[Memory, Tensor]:
        """Reads the prompts of new rows; a memory of these rows, and the logits [B, V] after each prompt."""
        room = max(len(prompts[row.request]) + row.watch.limit for row in new)
        keys = [
            (tuple(prompts[i]), None if sources is None else tuple(sources[i]))
            for i in (row.request for row in new)
        ]
        places = {key: place for place, key in enumerate(dict.fromkeys(keys))}
        memory = self.start(len(places), room, None if sources is None else [text for _, text in places])
        tokens_BT, segments_BT = padded([prompt for prompt, _ in places], self.device)
        hidden_BTD = self.model(tokens_BT, segments_BT, memory)
        logits_BV = self.model.head(hidden_BTD[torch.arange(len(places)), segments_BT.sum(dim=1) - 1])
        if len(places) < len(new):
            rows = [places[key] for key in keys]
            memory.keep(rows)
            logits_BV = logits_BV[rows]
        return memory, logits_BV

    @torch.inference_mode()
    def score(
        self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]], batch_size: int = 32,
        sources: Sequence[Sequence[int]] | None = None,
    ) -> list[Score]:  # fmt: skip
        """Scores continuations: each pair is (context ids, continuation ids); the context must not be empty."""
        self._check(sources)
        was_training = self.model.training
        self.model.eval()
        scores: list[Score | None] = [None] * len(pairs)
        order = sorted(range(len(pairs)), key=lambda i: len(pairs[i][0]) + len(pairs[i][1]))
        try:
            for start in range(0, len(order), batch_size):
                part = order[start : start + batch_size]
                texts = None if sources is None else [sources[i] for i in part]
                for index, score in zip(part, self._score([pairs[i] for i in part], texts), strict=True):
                    scores[index] = score
        finally:
            self.model.train(was_training)
        return [score for score in scores if score is not None]

    def _score(
        self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]], sources: Sequence[Sequence[int]] | None
    ) -> Iterator[Score]:
        if any(not context for context, _ in pairs):
            raise UserError("cannot score a text without anything before it", fix="begin with the bos token")
        whole = [[*context, *continuation] for context, continuation in pairs]
        longest = self.model.max_length
        if longest is not None and max(map(len, whole)) - 1 > longest:
            raise UserError(
                f"a text of {max(map(len, whole))} tokens is too long to score",
                why=f"the model reads at most {longest} tokens", fix="score it in windows, as `perplexity` does",
            )  # fmt: skip
        tokens_BT, segments_BT = padded([ids[:-1] for ids in whole], self.device)
        reads = {} if sources is None else {"source": self._source(sources)}
        hidden_BTD = self.model(tokens_BT, segments_BT, **reads)
        for b, (context, continuation) in enumerate(pairs):
            span = slice(len(context) - 1, len(whole[b]) - 1)
            logits_TV = self.model.head(hidden_BTD[b, span]).float()
            targets_T = torch.tensor(list(continuation), dtype=torch.long, device=self.device)
            values = torch.log_softmax(logits_TV, dim=-1).gather(1, targets_T[:, None])[:, 0]
            greedy = bool((logits_TV.argmax(dim=-1) == targets_T).all())
            yield Score(float(values.double().sum()), values.tolist(), greedy)


def _staying(alive: Sequence[bool]) -> list[int]:
    """The rows that go on; those at the end fill the places of the ones that leave, and no other has to move."""
    count = sum(alive)
    movers = (row for row in range(count, len(alive)) if alive[row])
    return [row if alive[row] else next(movers) for row in range(count)]


def _chosen(logits_BV: Tensor, rows: Sequence[_Row]) -> tuple[list[int], list[float]]:
    """The next token of each row and its log-probability."""
    tokens = choose_each(
        logits_BV, [row.seen for row in rows], [row.sampling for row in rows], [row.draw for row in rows]
    )
    wide_BV = logits_BV.float() if logits_BV.element_size() < 4 else logits_BV
    tokens_B1 = torch.tensor(tokens)[:, None]
    logprobs_B = wide_BV.gather(1, tokens_B1)[:, 0] - wide_BV.logsumexp(dim=1)
    return tokens, logprobs_B.tolist()


def padded(rows: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Rows as one tensor, padded at the end, and its segments (1 = real, 0 = padding); both int64 [B, T]."""
    longest = max(1, max(map(len, rows)))
    tokens_BT = torch.zeros(len(rows), longest, dtype=torch.long)
    segments_BT = torch.zeros_like(tokens_BT)
    for b, row in enumerate(rows):
        tokens_BT[b, : len(row)] = torch.tensor(list(row), dtype=torch.long)
        segments_BT[b, : len(row)] = 1
    return tokens_BT.to(device), segments_BT.to(device)
