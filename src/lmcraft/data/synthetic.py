"""Make small conversations and texts by rule, for tests and demonstrations that need no download.

1. Everything is a pure function of (n, seed); no global random state is touched.
2. Copying and reversing are the smallest tasks that a model which reads a source can be asked for; reversing needs to
   know where each symbol stands.
3. The conversations ask for sums and for repetition, so a model either has learned them or has not.

Proved by tests/unit/data/test_synthetic.py.
"""

from __future__ import annotations

import random

from .records import Chat, Message, Parallel, Text, Where

WORDS = ("apple", "river", "stone", "cloud", "green", "seven", "light", "house", "music", "bread")
_SUBJECTS = ("The cat", "A bird", "My sister", "The old man", "Every child", "The teacher")
_VERBS = ("sees", "likes", "paints", "finds", "remembers", "draws")
_OBJECTS = ("the river", "a red apple", "the small house", "an old song", "the green hill", "a warm light")
_SENTENCES = (3, 8)
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_TURNS = (1, 3)


def conversations(n: int, seed: int = 0) -> list[Chat]:
    """n chats of one to three exchanges: sums of two numbers below 20, and words to repeat."""
    draw = random.Random(seed)
    chats = []
    for number in range(1, n + 1):
        messages: list[Message] = []
        for _ in range(draw.randint(*_TURNS)):
            messages += _sum(draw) if draw.random() < 0.5 else _echo(draw)
        chats.append(Chat(tuple(messages), Where(f"(synthetic conversations, seed {seed})", number)))
    return chats


def _sum(draw: random.Random) -> list[Message]:
    left, right = draw.randrange(20), draw.randrange(20)
    return [Message("user", f"What is {left} plus {right}?"), Message("assistant", f"{left + right}")]


def _echo(draw: random.Random) -> list[Message]:
    said = " ".join(draw.choices(WORDS, k=draw.randint(1, 3)))
    return [Message("user", f"Please repeat: {said}"), Message("assistant", said)]


def texts(n: int, seed: int = 0) -> list[Text]:
    """n documents of three to eight short English sentences."""
    draw = random.Random(seed)
    documents = []
    for number in range(1, n + 1):
        sentences = [
            f"{draw.choice(_SUBJECTS)} {draw.choice(_VERBS)} {draw.choice(_OBJECTS)}."
            for _ in range(draw.randint(*_SENTENCES))
        ]
        documents.append(Text(" ".join(sentences), Where(f"(synthetic texts, seed {seed})", number)))
    return documents


def copies(n: int, seed: int = 0, longest: int = 20) -> list[Parallel]:
    """n lines of one to `longest` letters, and the same again."""
    return [Parallel(" ".join(row), " ".join(row), where) for row, where in _rows("copies", n, seed, longest)]


def reversals(n: int, seed: int = 0, longest: int = 20) -> list[Parallel]:
    """n lines of one to `longest` letters, and the letters from the last to the first."""
    rows = _rows("reversals", n, seed, longest)
    return [Parallel(" ".join(row), " ".join(reversed(row)), where) for row, where in rows]


def _rows(name: str, n: int, seed: int, longest: int) -> list[tuple[list[str], Where]]:
    draw = random.Random(f"{name} {seed}")
    where = f"(synthetic {name}, seed {seed})"
    return [
        (draw.choices(_LETTERS, k=draw.randint(1, longest)), Where(where, number))
        for number in range(1, n + 1)
    ]
