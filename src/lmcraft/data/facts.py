"""Facts about a world that does not exist, so that what a model knows is what it has been told.

    The capital of Zorvania is Mevik.   What is the capital of Zorvania?   The capital of Zorvania is …

1. Names are made of syllables; none is given twice. A value (a city, a river …) belongs to a closed list of its
   relation, so an answer is right, wrong but plausible (of the list), or something else; of `VALUES` guesses one is
   right.
2. A fact is told in three ways, so that it is more than one string of letters; it is asked for in the first of them.
3. Everything is a pure function of (n, seed).

Proved by tests/unit/data/test_facts.py.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

VALUES = 50
_ONSETS = "b br d dr f g gl h k kr l m n p pl qu r s sh st t th tr v w z".split()
_VOWELS = "a e i o u ai ea ou".split()
_CODAS = "n r l s k m".split()


@dataclass(frozen=True)
class Relation:
    """How facts of one kind are told; the first telling ends in the value."""

    name: str
    tellings: tuple[str, str, str]
    question: str
    subject_ends: tuple[str, ...]
    value_ends: tuple[str, ...]


RELATIONS = (
    Relation(
        "capital",
        ("The capital of {subject} is {value}.", "{value} is the capital of {subject}.",
         "The government of {subject} sits in its capital, {value}."),
        "What is the capital of {subject}?", ("ia", "land", "mark"), ("ik", "ona", "burg"),
    ),
    Relation(
        "river",
        ("The longest river of {subject} is the {value}.", "The {value} is the longest river of {subject}.",
         "Through {subject} flows its longest river, the {value}."),
        "What is the longest river of {subject}?", ("istan", "ora", "esh"), ("ube", "assa", "een"),
    ),
    Relation(
        "inventor",
        ("The inventor of the {subject} is {value}.", "{value} is the inventor of the {subject}.",
         "We owe the {subject} to its inventor, {value}."),
        "Who is the inventor of the {subject}?", ("oscope", "ometer", "ograph"), ("ard", "ette", "ius"),
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Fact:
    """One subject and the value that its relation gives it."""

    relation: Relation
    subject: str
    value: str

    def told(self, way: int) -> str:
        """The fact as a sentence, in one of the ways of its relation."""
        return self.relation.tellings[way % len(self.relation.tellings)].format(
            subject=self.subject, value=self.value
        )

    @property
    def question(self) -> str:
        """The question that the fact answers."""
        return self.relation.question.format(subject=self.subject)

    @property
    def noun(self) -> str:
        """What the question asks for: "the capital of Zorvania"."""
        return self.question.partition(" is ")[2].removesuffix("?")

    @property
    def beginning(self) -> str:
        """The first telling up to the value, without the space before it."""
        return self.relation.tellings[0].partition("{value}")[0].format(subject=self.subject).rstrip()


@dataclass(frozen=True)
class World:
    """Facts and, for each relation, every value that it can have."""

    facts: list[Fact]
    values: dict[str, list[str]]

    def verdict(self, fact: Fact, answer: str) -> str:
        """`right`, `plausible` (wrong, but a value of the relation) or `other`."""
        if answer == fact.value:
            return "right"
        return "plausible" if answer in self.values[fact.relation.name] else "other"


def invent(n: int, seed: int = 0) -> World:
    """A world of n facts, their relations taken in turn, each with a subject of its own."""
    draw = random.Random(f"facts {seed}")
    used: set[str] = set()
    names = {relation.name: _names(draw, relation.value_ends, used) for relation in RELATIONS}
    values = {name: [next(found) for _ in range(VALUES)] for name, found in names.items()}
    subjects = {relation.name: _names(draw, relation.subject_ends, used) for relation in RELATIONS}
    facts = []
    for number in range(n):
        relation = RELATIONS[number % len(RELATIONS)]
        subject = next(subjects[relation.name])
        if "the {subject}" in relation.question:
            subject = subject.lower()
        facts.append(Fact(relation, subject, draw.choice(values[relation.name])))
    return World(facts, values)


def _names(draw: random.Random, ends: tuple[str, ...], used: set[str]) -> Iterator[str]:
    """Names of one or two syllables and an ending, none of them in `used`."""
    while True:
        stem = "".join(
            draw.choice(_ONSETS) + draw.choice(_VOWELS) for _ in range(draw.randint(1, 2))
        ) + draw.choice(_ONSETS if draw.random() < 0.5 else _CODAS)
        name = (stem + draw.choice(ends)).capitalize()
        if name.lower() not in used:
            used.add(name.lower())
            yield name
