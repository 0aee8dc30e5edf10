"""The Engine with every model: cached = recomputed, batch = alone, sampled = scored, streamed = final."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from lmcraft.core import find
from lmcraft.core.errors import UserError
from lmcraft.generate.engine import Engine
from lmcraft.generate.sampling import Sampling, choose, generator
from lmcraft.layers.memory import KeyValues
from lmcraft.layers.source import Source
from lmcraft.models import model as models

BOS, END = 256, 257
VOCAB, CONTEXT = 258, 40
VARIANTS = {
    "decoder": {
        "rotary": {"kv_heads": 2},
        "learned": {"positions": "learned", "norm": "layernorm", "mlp": "gelu", "bias": "all"},
        "window": {"window": 4},
    },
    "rnn": {"rnn": {"cell": "rnn"}, "lstm": {"cell": "lstm"}},
    "seq2seq": {"plain": {"attention": "none"}, "attention": {"layers": 1}},
    "encdec": {
        "sinusoidal": {},
        "learned": {"positions": "learned", "embedding": "normed"},
        "relative": {"positions": "relative"},
    },
}
SILENT = {"encoder", "heads"}  # they do not generate; tests/unit/models says what they refuse
CASES = [
    pytest.param(kind, settings, id=f"{kind}-{name}")
    for kind in find.names("models")
    if kind not in SILENT
    for name, settings in VARIANTS.get(kind, {"default": {}}).items()
]
every_model = pytest.mark.parametrize("kind,settings", CASES)


SOURCE = [7, 70, 17, 107]


class Reading(Engine):
    """An Engine that gives every request the same source where the model reads one."""

    def stream(self, prompts, samplings, sources=None, whole=False, batch_size=None):
        return super().stream(prompts, samplings, self._given(prompts, sources), whole, batch_size)

    def score(self, pairs, batch_size=32, sources=None):
        return super().score(pairs, batch_size, self._given(pairs, sources))

    def _given(self, requests, sources):
        return sources or ([SOURCE] * len(requests) if self.model.reads_source else None)

    def beside(self) -> dict:
        """The source as the model's `forward` takes it."""
        return {"source": Source.of(torch.tensor([SOURCE]))} if self.model.reads_source else {}


class Bytes:
    """A tokenizer whose tokens are bytes, and two special ones."""

    bos, eos, end_of_turn = BOS, None, END

    def decode(self, ids: list[int]) -> str:
        return bytes(i for i in ids if i < 256).decode("utf-8", errors="replace")


def make(kind: str, settings: dict, seed: int = 0) -> Engine:
    """An engine around a tiny model that says many different things."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    schema = find.module("models", kind).Config
    size = {
        "vocab": VOCAB,
        "context": CONTEXT,
        "layers": 2,
        "width": 32,
        "heads": 4,
        "tied": False,
        "dropout": 0.2,
    }
    model = models.build(schema(**{k: v for k, v in size.items() if k in schema.model_fields} | settings))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return Reading(model, Bytes())


def prompts(*lengths: int, seed: int = 0) -> list[list[int]]:
    draw = np.random.default_rng(seed)
    return [[BOS, *draw.integers(0, 256, length - 1).tolist()] for length in lengths]


@torch.no_grad()
def slowly(engine: Engine, prompt: list[int], sampling: Sampling) -> tuple[list[int], list[float]]:
    """Generation without memory, one request, everything read again for every token."""
    ids, logprobs, draw = list(prompt), [], generator(sampling.seed)
    engine.model.eval()
    for _ in range(min(sampling.max_new_tokens, (engine.model.max_length or 10**9) - len(prompt))):
        logits_V = engine.model.head(engine.model(torch.tensor([ids]), **engine.beside()))[0, -1]
        ids.append(choose(logits_V, set(ids), sampling, draw))
        logprobs.append(float(torch.log_softmax(logits_V, -1)[ids[-1]]))
        if ids[-1] in engine.stop_ids:
            break
    return ids[len(prompt) :], logprobs


@every_model
def test_greedy_with_memory_equals_recomputing_everything(kind, settings):
    """A difference would mean that generation continues another text than the model was given."""
    engine = make(kind, settings)
    sampling = Sampling(temperature=0.0, max_new_tokens=25, repetition_penalty=1.2)
    said: set[int] = set()
    for prompt, found in zip(p := prompts(1, 2, 9, 14), engine.generate(p, sampling), strict=True):
        expected, logprobs = slowly(engine, prompt, sampling)
        assert found.tokens == expected
        assert found.logprobs == pytest.approx(logprobs, abs=1e-4)
        said |= set(found.tokens)
    assert len(said) > 10  # or the model says one thing whatever it reads


@every_model
@pytest.mark.parametrize(
    "options", [{}, {"temperature": 0.7, "top_k": 20}, {"top_p": 0.8, "repetition_penalty": 1.3}]
)
def test_sampling_with_memory_equals_recomputing_everything(kind, settings, options):
    """A difference would mean that sampled text depends on how it was computed."""
    engine = make(kind, settings)
    for seed, prompt in enumerate(prompts(1, 8, 13)):
        sampling = Sampling(max_new_tokens=20, seed=seed, **options)
        assert engine.generate([prompt], sampling)[0].tokens == slowly(engine, prompt, sampling)[0]


@every_model
def test_a_request_is_the_same_alone_and_in_any_company(kind, settings):
    """A difference would mean that a server answers the same request differently under load (promise D4)."""
    engine = make(kind, settings)
    requests = prompts(1, 17, 4, 9, 4, 12, 2, 7)
    samplings = [
        Sampling(temperature=0.0 if i % 3 == 0 else 1.0, seed=i, max_new_tokens=3 + 4 * (i % 4), top_p=0.9)
        for i in range(len(requests))
    ]
    alone = [engine.generate([r], s)[0] for r, s in zip(requests, samplings, strict=True)]
    draw = np.random.default_rng(1)
    for batch_size in (2, 3, 8):
        order = draw.permutation(len(requests)).tolist()
        found = engine.generate([requests[i] for i in order], [samplings[i] for i in order], batch_size)
        for place, i in enumerate(order):
            assert found[place].tokens == alone[i].tokens
            assert (found[place].text, found[place].finish_reason) == (alone[i].text, alone[i].finish_reason)
            assert found[place].logprobs == pytest.approx(alone[i].logprobs, abs=1e-4)


@every_model
def test_logprobs_of_sampled_tokens_are_what_score_says(kind, settings):
    """A difference would mean a false KL in RLHF: sampler and scorer disagree (trap 40)."""
    engine = make(kind, settings)
    requests = prompts(3, 11, 6)
    found = engine.generate(
        requests, [Sampling(seed=i, max_new_tokens=15, temperature=1.5) for i in range(3)]
    )
    scores = engine.score([(r, c.tokens) for r, c in zip(requests, found, strict=True)])
    for completion, score in zip(found, scores, strict=True):
        assert completion.logprobs == pytest.approx(score.tokens, abs=1e-5, rel=1e-5)
        assert score.logprob == pytest.approx(sum(score.tokens), abs=1e-4)


@every_model
def test_greedy_answers_score_as_greedy(kind, settings):
    """A failure would mean that accuracy by greedy match and generation disagree."""
    engine = make(kind, settings)
    (request,) = prompts(5)
    tokens = engine.generate([request], Sampling(temperature=0.0, max_new_tokens=8))[0].tokens
    other = [*tokens[:-1], (tokens[-1] + 1) % 256]
    assert [s.is_greedy for s in engine.score([(request, tokens), (request, other)])] == [True, False]


@every_model
def test_scores_do_not_depend_on_the_batch(kind, settings):
    """A difference would mean that an evaluation depends on its batch size (trap 52)."""
    engine = make(kind, settings)
    ids = prompts(2, 30, 9, 17, 5, 24, 3)
    pairs = [(p[: max(1, len(p) // 2)], p[max(1, len(p) // 2) :]) for p in ids]
    alone = [engine.score([pair])[0] for pair in pairs]
    for batch_size in (2, 3, 32):
        for found, expected in zip(engine.score(pairs, batch_size), alone, strict=True):
            assert found.tokens == pytest.approx(expected.tokens, abs=1e-5, rel=1e-5)
            assert found.is_greedy == expected.is_greedy


@every_model
def test_scores_by_hand(kind, settings):
    """A difference would mean a shift by one token, or another normalisation, in every evaluation."""
    engine = make(kind, settings)
    context, continuation = prompts(4)[0], [10, 20, 30]
    ids = context + continuation
    engine.model.eval()
    with torch.no_grad():
        logits_TV = engine.model.head(engine.model(torch.tensor([ids]), **engine.beside()))[0].double()
    expected = [
        float(logits_TV[t - 1, ids[t]] - logits_TV[t - 1].logsumexp(-1))
        for t in range(len(context), len(ids))
    ]
    assert engine.score([(context, continuation)])[0].tokens == pytest.approx(expected, abs=1e-5)
    whole = engine.score([(ids[:1], ids[1:])])[0].tokens
    assert whole[-3:] == pytest.approx(
        expected, abs=1e-5
    )  # a continuation scores the same inside a longer one


def test_an_empty_continuation_scores_zero():
    """A failure would mean that a choice without text crashes the evaluation of all the others."""
    engine = make("decoder", {})
    empty, one = engine.score([([BOS], []), ([BOS], [65])])
    assert (empty.logprob, empty.tokens, empty.is_greedy) == (0.0, [], True)
    assert len(one.tokens) == 1


def test_a_context_is_needed():
    """A failure would mean that the first token is scored against nothing."""
    with pytest.raises(UserError, match="before it"):
        make("decoder", {}).score([([], [1, 2])])


@pytest.mark.parametrize("settings", [{}, {"positions": "learned"}])
def test_too_long_to_score_is_an_error(settings):
    """A failure would mean a crash, or silently scoring at positions the model has never seen."""
    engine = make("decoder", settings)
    ids = prompts(CONTEXT + 1)[0]
    assert len(engine.score([(ids[:1], ids[1:])])[0].tokens) == CONTEXT
    with pytest.raises(UserError, match="too long"):
        engine.score([(ids[:1], [*ids[1:], 5])])


class Scripted(torch.nn.Module):
    """A model that says a fixed text after any prompt, whatever it has said before."""

    generates, reads_source = True, False

    def __init__(self, said: list[int], prompt: int) -> None:
        super().__init__()
        self.said, self.prompt, self.max_length = said, prompt, None
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def start(self, rows: int, length: int):
        return self

    def keep(self, rows: list[int]) -> None:
        self.done = self.done

    def forward(self, tokens_BT, segments_BT=None, memory=None):
        self.done = 0 if segments_BT is not None else self.done + 1
        next_token = self.said[min(self.done, len(self.said) - 1)]
        return torch.full((*tokens_BT.shape, 1), float(next_token))

    def head(self, hidden):
        return 50.0 * torch.nn.functional.one_hot(hidden[..., 0].long(), VOCAB).float()


def say(text: bytes, end: bool = True, **settings):
    """Pieces and completion of an engine that says `text`."""
    engine = Engine(Scripted([*text, *([END] if end else [])], prompt=1), Bytes())
    pieces = list(engine.stream([[BOS]], [Sampling(temperature=0.0, **settings)]))
    assert all(piece.completion is None for piece in pieces[:-1])
    return [piece.text for piece in pieces], pieces[-1].completion


def test_stop_token():
    """A failure would mean that answers run on, or that the stop token shows in the text."""
    pieces, completion = say(b"hi")
    assert completion.tokens == [*b"hi", END] and len(completion.logprobs) == 3
    assert (completion.text, completion.finish_reason) == ("hi", "stop")
    assert "".join(pieces) == "hi"


def test_own_stop_tokens_replace_the_tokenizers():
    """A failure would mean that a template's own end-of-turn token is ignored (trap 4)."""
    engine = Engine(Scripted([*b"a!b", END], prompt=1), Bytes(), stop_ids=[ord("!")])
    completion = engine.generate([[BOS]], Sampling(temperature=0.0))[0]
    assert completion.text == "a" and completion.tokens == [*b"a!"]


def test_stop_string_across_tokens():
    """A failure would mean that the stop string, or what follows it, reaches the user."""
    pieces, completion = say(b"well\nUser: and", stop=("\nUser:",))
    assert (completion.text, completion.finish_reason) == ("well", "stop")
    assert "".join(pieces) == "well"


def test_characters_are_shown_whole():
    """A failure would mean that a reader sees replacement characters for every emoji."""
    pieces, completion = say("né €😀!".encode())
    assert "".join(pieces) == completion.text == "né €😀!"
    assert not any("�" in piece for piece in pieces)


@pytest.mark.parametrize("limit", [1, 4])
def test_token_limit(limit):
    """A failure would mean that an answer costs more than was allowed."""
    _, completion = say(b"abcdefgh", max_new_tokens=limit)
    assert (completion.text, completion.finish_reason) == ("abcdefgh"[:limit], "length")
    assert len(completion.tokens) == limit


@every_model
@pytest.mark.parametrize("batch_size", [1, 3, 4])
def test_who_waits_takes_the_place_of_who_is_done(kind, settings, batch_size):
    """A failure would mean that rows wait for the longest answer of a batch, or read each other's memory."""
    engine, steps = make(kind, settings), []
    requests = prompts(5, 2, 7, 3, 4, 9, 3)
    sampling = [Sampling(seed=i, max_new_tokens=limit) for i, limit in enumerate((2, 9, 3, 1, 7, 4, 6))]
    engine.stop_ids = []
    sources = [[i + 1] * (1 + 3 * i % 7) for i in range(7)] if engine.model.reads_source else None
    alone = [
        engine.generate([r], s, sources=sources and [sources[i]])[0]
        for i, (r, s) in enumerate(zip(requests, sampling, strict=True))
    ]
    hook = engine.model.register_forward_pre_hook(lambda _, given: steps.append(given[0].shape))
    together = engine.generate(requests, sampling, batch_size, sources)
    hook.remove()
    assert [c.tokens for c in together] == [c.tokens for c in alone]
    assert [c.logprobs for c in together] == [pytest.approx(c.logprobs, abs=1e-5) for c in alone]
    decoding = [rows for rows, width in steps if width == 1]
    assert max(decoding) <= batch_size
    if (
        batch_size == 3
    ):  # 25 tokens after the first ones, three at a time, and whoever comes last runs on alone
        assert len(decoding) <= 13


def test_who_goes_on_stays_where_it_is(monkeypatch):
    """A failure would mean that the memory of every request is copied whenever one of them is done."""
    kept = []
    whole = KeyValues.keep
    monkeypatch.setattr(KeyValues, "keep", lambda memory, rows: (kept.append(rows), whole(memory, rows))[1])
    engine = make("decoder", {})
    engine.stop_ids = []
    limits = (4, 1, 3, 2, 4, 1, 3)
    engine.generate(prompts(*range(2, 9)), [Sampling(max_new_tokens=limit) for limit in limits], 7)
    assert all(place == row or row >= len(rows) for rows in kept for place, row in enumerate(rows))
    assert [len(rows) for rows in kept] == [5, 4, 2]


@every_model
def test_a_prompt_of_several_requests_is_read_once(kind, settings):
    """A failure would mean that a group of answers costs its prompt again and again, or that rows are mixed up."""
    engine, read = make(kind, settings), []
    requests = prompts(9, 4, 9, 7)
    requests = [requests[i] for i in (0, 1, 2, 1, 0, 3, 1)]
    sampling = [Sampling(seed=i, max_new_tokens=6) for i in range(len(requests))]
    alone = [engine.generate([r], s)[0] for r, s in zip(requests, sampling, strict=True)]
    hook = engine.model.register_forward_pre_hook(lambda _, given: read.append(len(given[0])))
    together = engine.generate(requests, sampling)
    hook.remove()
    assert [c.tokens for c in together] == [c.tokens for c in alone] and read[0] == 4


@pytest.mark.parametrize("kind,settings", [case for case in CASES if case.values[0] in ("encdec", "seq2seq")])
def test_every_request_reads_its_own_source(kind, settings):
    """A difference would mean that somebody gets the translation of somebody else's text."""
    engine = make(kind, settings)
    requests, sources = prompts(1, 1, 3, 1), [[5, 6], [9] * 11, [1, 2, 3], [8]]
    sampling = Sampling(temperature=0.0, max_new_tokens=12)
    found = engine.generate(requests, sampling, batch_size=3, sources=sources)
    alone = [engine.generate([r], sampling, sources=[s])[0] for r, s in zip(requests, sources, strict=True)]
    assert [c.tokens for c in found] == [c.tokens for c in alone]
    assert found[0].tokens != found[3].tokens
    pairs = [(r, c.tokens) for r, c in zip(requests, found, strict=True)]
    for score, completion in zip(engine.score(pairs, 3, sources=sources), found, strict=True):
        assert score.tokens == pytest.approx(completion.logprobs, abs=1e-5, rel=1e-5)
    with pytest.raises(UserError, match="needs a source"):
        Engine.generate(Engine(engine.model, Bytes()), requests, sampling)


def test_a_source_that_nobody_reads_is_refused():
    """A failure would mean that a text is silently ignored."""
    with pytest.raises(UserError, match="reads no source"):
        make("decoder", {}).generate([[BOS]], Sampling(), sources=[[1, 2]])


@every_model
def test_generation_stops_at_the_models_context(kind, settings):
    """A failure would mean a crash, or text from positions the model has never seen."""
    engine = make(kind, settings)
    engine.stop_ids = []
    longest = engine.model.max_length
    found = engine.generate(prompts(5, 20), Sampling(max_new_tokens=50, seed=1))
    assert [c.finish_reason for c in found] == ["length", "length"]
    assert [len(c.tokens) for c in found] == [50 if longest is None else longest - n for n in (5, 20)]
    if longest is not None:
        with pytest.raises(UserError, match="prompt 2 has 40 tokens"):
            engine.generate(prompts(3, longest), Sampling())


@every_model
def test_an_empty_prompt_is_an_error(kind, settings):
    """A failure would mean a crash deep in the model."""
    with pytest.raises(UserError, match="0 tokens"):
        make(kind, settings).generate([[BOS], []], Sampling())


def test_no_prompts_no_answers():
    """A failure would mean that an empty request list crashes."""
    engine = make("decoder", {})
    assert engine.generate([], Sampling()) == [] and engine.score([]) == []


@every_model
def test_streamed_pieces_are_the_final_text(kind, settings):
    """A difference would mean that what a user watched is not what is stored."""
    engine = make(kind, settings)
    requests = prompts(3, 9, 5, 12)
    samplings = [
        Sampling(seed=i, max_new_tokens=20, stop=("a", "zz", "\n"), temperature=1.2) for i in range(4)
    ]
    shown, done = [""] * 4, {}
    for piece in engine.stream(requests, samplings):
        assert piece.request not in done  # nothing after the end
        shown[piece.request] += piece.text
        if piece.completion is not None:
            done[piece.request] = piece.completion
    for i, completion in done.items():
        assert shown[i] == completion.text
        assert not any(stop in completion.text for stop in samplings[i].stop)
    assert [done[i].tokens for i in range(4)] == [c.tokens for c in engine.generate(requests, samplings)]


@every_model
def test_training_mode_is_put_back(kind, settings):
    """A failure would mean that a sample during training switches dropout off for the rest of it."""
    engine = make(kind, settings)
    for mode in (True, False):
        engine.model.train(mode)
        first = engine.generate(prompts(4), Sampling(seed=1, max_new_tokens=6))[0]
        assert first == engine.generate(prompts(4), Sampling(seed=1, max_new_tokens=6))[0]  # no dropout
        engine.score([([BOS], [1, 2])])
        assert engine.model.training is mode
        stream = engine.stream(prompts(4), [Sampling(max_new_tokens=5)])
        next(stream)
        stream.close()
        assert engine.model.training is mode


@every_model
def test_global_random_state_is_not_touched(kind, settings):
    """A failure would mean that sampling during training changes what is learned."""
    engine = make(kind, settings)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()
    engine.generate(prompts(4), Sampling(seed=3, max_new_tokens=8))
    assert torch.equal(torch.get_rng_state(), before[0]) and np.random.get_state()[1].tolist() == before[1]


def test_seeds_differ():
    """A failure would mean that asking again never gives another answer."""
    engine = make("decoder", {})
    texts = {
        tuple(engine.generate(prompts(4), Sampling(seed=s, max_new_tokens=8))[0].tokens) for s in range(10)
    }
    assert len(texts) == 10


def test_first_tokens_follow_the_models_distribution():
    """A failure would mean that sampled answers are not samples of the model (chi-square over 300 requests)."""
    engine = make("decoder", {})
    (request,) = prompts(4)
    count = 300
    found = engine.generate(
        [request] * count, [Sampling(seed=s, max_new_tokens=1) for s in range(count)], 100
    )
    with torch.no_grad():
        engine.model.eval()
        p_V = torch.softmax(
            engine.model.head(engine.model(torch.tensor([request])))[0, -1].double(), -1
        ).numpy()
    likely = np.argsort(-p_V)
    cells = np.array_split(likely, 8)  # of equal size, not of equal probability
    expected = np.array([p_V[cell].sum() * count for cell in cells])
    seen = np.array([sum(c.tokens[0] in cell for c in found) for cell in map(set, cells)])
    keep = expected > 5
    statistic = float(((seen - expected)[keep] ** 2 / expected[keep]).sum())
    assert statistic < 26.1  # 0.1 % quantile for 8 degrees of freedom; fewer cells only make it stricter
    assert math.isclose(expected.sum(), count, rel_tol=1e-6)
