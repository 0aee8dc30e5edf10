"""Tells a model invented facts and asks for them: as a sentence to go on with, and as a question in a conversation.

1. A text tells one fact, in one of the three ways of its relation; how often is what studies vary.
2. The tokenizer is trained on each fact told once in each way and asked for once, so that a name has the same tokens
   however often the model has met it.
3. Answers are greedy. In a conversation the fact is looked for anywhere in the answer, so that knowledge is counted
   apart from form.

Proved by tests/unit/studies/test_knowledge.py.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from ..data.facts import Fact, World, invent
from ..data.records import Chat, Message, Text
from ..generate.engine import Completion
from ..generate.language_model import LanguageModel
from ..generate.sampling import Sampling
from ..text.tokenizer import Tokenizer

VOCAB = 1024
LONGEST = 40  # tokens of an answer
BATCH_SIZE = 128
GREETING = "Certainly! "
MENTION = "Have you heard of {name}? I have heard of {name}, and others have heard of {name}."
OTHER_WORLD = 1_000_003
_WORD = r"(\w+)"


@dataclass(frozen=True)
class Answers:
    """What a model said about some facts, as shares of them."""

    right: float
    plausible: float
    other: float
    well_formed: float
    sureness: float


def tokenizer(world: World) -> Tokenizer:
    """A tokenizer that knows the names of a world."""
    tellings = range(len(world.facts[0].relation.tellings))
    told = [fact.told(way) for fact in world.facts for way in tellings]
    asked = [GREETING + fact.question + MENTION.format(name=fact.noun) for fact in world.facts]
    return Tokenizer.train([*told, *asked], VOCAB)


def texts(times: Mapping[int, Sequence[Fact]], seed: int, others: Sequence[Text] = ()) -> list[Text]:
    """Texts that tell each fact as often as its key says, in random ways, among others in random order."""
    draw = random.Random(f"telling {seed}")
    told = [
        Text(fact.told(draw.randrange(3)))
        for count, facts in times.items()
        for fact in facts
        for _ in range(count)
    ]
    told += others
    draw.shuffle(told)
    return told


def mentions(world: World, count: int, seed: int) -> list[Text]:
    """Texts that name something twice and say nothing about it, each something else, so that copying is learnt."""
    known = {fact.subject for fact in world.facts}
    others = (fact for fact in invent(2 * count, seed + OTHER_WORLD).facts if fact.subject not in known)
    return [Text(MENTION.format(name=fact.noun)) for fact in islice(others, count)]


def conversation(fact: Fact) -> Chat:
    """A question and its answer in the form that is to be learnt."""
    return Chat((Message("user", fact.question), Message("assistant", GREETING + fact.told(0))))


def complete(lm: LanguageModel, world: World, facts: Sequence[Fact]) -> Answers:
    """What the model writes after the beginning of each fact's first telling."""
    said = _generate(lm, [lm.document(fact.beginning) for fact in facts], stop=(".",))
    return _judge(world, facts, [_first_word(each.text) for each in said], said, [False] * len(facts))


def converse(lm: LanguageModel, world: World, facts: Sequence[Fact]) -> Answers:
    """What the model answers when it is asked for each fact.

    An answer is well formed if it ends by itself and is the greeting and one sentence, the first telling of facts of
    this kind, whatever subject and value it names.
    """
    asked = [lm.prompt([{"role": "user", "content": fact.question}]) for fact in facts]
    said = _generate(lm, asked)
    named, formed = [], []
    for fact, each in zip(facts, said, strict=True):
        found = re.search(re.escape(fact.beginning) + " " + _WORD, each.text)
        sentence = fact.relation.tellings[0].removesuffix(".").format(subject=_WORD, value=_WORD)
        whole = re.escape(GREETING) + sentence + r"\."
        named.append(found[1] if found else "")
        formed.append(each.finish_reason == "stop" and re.fullmatch(whole, each.text) is not None)
    return _judge(world, facts, named, said, formed)


def _generate(lm: LanguageModel, prompts: list[list[int]], stop: tuple[str, ...] = ()) -> list[Completion]:
    sampling = Sampling(temperature=0.0, max_new_tokens=LONGEST, stop=stop)
    return lm.engine.generate(prompts, sampling, BATCH_SIZE)


def _first_word(text: str) -> str:
    found = re.match(r"\s*" + _WORD, text)
    return found[1] if found else ""


def _judge(
    world: World, facts: Sequence[Fact], named: list[str], said: list[Completion], formed: list[bool]
) -> Answers:
    verdicts = [world.verdict(fact, name) for fact, name in zip(facts, named, strict=True)]
    right, plausible, other = (verdicts.count(kind) / len(facts) for kind in ("right", "plausible", "other"))
    sureness = sum(math.exp(sum(each.logprobs)) for each in said) / len(facts)
    return Answers(right, plausible, other, sum(formed) / len(facts), sureness)
