"""Beam search: one beam is greedy, enough beams are exhaustive, and length is judged as the formula says."""

from __future__ import annotations

import itertools

import pytest
import torch

from lmcraft.core.errors import UserError
from lmcraft.generate.beam import Beams, search
from lmcraft.generate.engine import Engine
from lmcraft.generate.sampling import Sampling
from lmcraft.models import decoder, encdec, model, seq2seq

STOP, VOCAB = 4, 5


class Letters:
    """A tokenizer of five letters; the last ends an answer."""

    bos, eos, end_of_turn = 0, STOP, None

    def decode(self, ids: list[int]) -> str:
        return "".join("abcd."[i] for i in ids)


CONFIGS = {
    "decoder": decoder.Config(vocab=VOCAB, context=16, layers=1, width=16, heads=2),
    "encdec": encdec.Config(vocab=VOCAB, context=16, layers=1, width=16, heads=2, tied=False),
    "seq2seq": seq2seq.Config(vocab=VOCAB, context=16, layers=1, width=16),
}
SOURCES = [[1, 2], [3, 3, 1, 0], [2]]
PROMPTS = [[0], [0, 1], [0, 2, 3]]
every_model = pytest.mark.parametrize("name", CONFIGS)


def engine(name: str, seed: int = 3) -> Engine:
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    net = model.build(CONFIGS[name])
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.5)
    return Engine(net, Letters())


def sources(found: Engine) -> dict:
    return {"sources": SOURCES} if found.model.reads_source else {}


@every_model
def test_one_beam_is_greedy(name):
    """A difference would mean that beam search starts from other numbers than generation."""
    found = engine(name)
    beams = search(found, PROMPTS, Beams(beams=1, max_new_tokens=9, length_penalty=0), **sources(found))
    greedy = found.generate(PROMPTS, Sampling(temperature=0.0, max_new_tokens=9), **sources(found))
    for mine, other in zip(beams, greedy, strict=True):
        assert (mine.tokens, mine.finish_reason) == (other.tokens, other.finish_reason)
        assert mine.text == other.text
        assert mine.logprobs == pytest.approx(other.logprobs, abs=1e-5)


@every_model
@pytest.mark.parametrize("penalty", [0.0, 0.6, 2.0])
def test_enough_beams_find_the_best_answer_there_is(name, penalty):
    """A difference would mean that the best answer is dropped on the way, or judged by another formula."""
    found, room = engine(name), 4
    settings = Beams(beams=64, max_new_tokens=room, length_penalty=penalty)
    beams = search(found, PROMPTS, settings, **sources(found))
    answers = [
        [*words, *end]
        for length in range(room + 1)
        for words in itertools.product(range(STOP), repeat=length)
        for end in ([[STOP]] if length < room else [[]])
    ]
    for number, (prompt, mine) in enumerate(zip(PROMPTS, beams, strict=True)):
        given = {"sources": [SOURCES[number]] * len(answers)} if found.model.reads_source else {}
        totals = [s.logprob for s in found.score([(prompt, a) for a in answers], 64, **given)]
        scores = [t / ((5 + len(a)) / 6) ** penalty for t, a in zip(totals, answers, strict=True)]
        best = max(range(len(answers)), key=scores.__getitem__)
        assert mine.tokens == answers[best]
        assert sum(mine.logprobs) == pytest.approx(totals[best], abs=1e-4)


@every_model
def test_a_request_is_the_same_alone_and_in_company(name):
    """A difference would mean that beams of one request stray into another."""
    found = engine(name, seed=5)
    settings = Beams(beams=3, max_new_tokens=8)
    together = search(found, PROMPTS, settings, **sources(found))
    for number, prompt in enumerate(PROMPTS):
        given = {"sources": [SOURCES[number]]} if found.model.reads_source else {}
        assert search(found, [prompt], settings, **given)[0].tokens == together[number].tokens
    apart = search(found, PROMPTS, settings, **sources(found), batch_size=2)
    assert [c.tokens for c in apart] == [c.tokens for c in together]


def test_more_beams_never_find_a_less_likely_whole():
    """A failure would mean that the penalty is applied the wrong way round."""
    found = engine("decoder")
    short = search(found, [[0]], Beams(beams=64, max_new_tokens=4, length_penalty=0))[0]
    long = search(found, [[0]], Beams(beams=64, max_new_tokens=4, length_penalty=10))[0]
    assert len(long.tokens) >= len(short.tokens) and sum(long.logprobs) <= sum(short.logprobs) + 1e-9


def test_no_room_is_an_error():
    """A failure would mean a crash deep in the model, or an endless search."""
    with pytest.raises(UserError, match="0 tokens"):
        search(engine("decoder"), [[]], Beams())
