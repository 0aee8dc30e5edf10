"""Records for every stage, and a tokenizer that knows their words."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from lmcraft.data import synthetic
from lmcraft.data.records import Labeled, Message, Pair, Parallel, Tagged, parts
from lmcraft.text.special import MASK
from lmcraft.text.tokenizer import SPECIALS, Tokenizer


def tag_of(word: str) -> str:
    """A name of a person or an animal, or nothing."""
    return "B-ONE" if word in ("cat", "bird", "sister", "man", "child", "teacher") else "O"


def preference(number: int, text: str, where) -> Pair:
    """A shout is better than a whisper."""
    word = text.split()[number % 3]
    said = (f"{word}!", f"{word} {word}, if you please")
    return Pair((Message("user", text[:20]),), *((Message("assistant", one),) for one in said), where)


PAIRS = [preference(n, r.text, r.where) for n, r in enumerate(synthetic.texts(60, seed=7))]
RECORDS = {
    "reward": PAIRS,
    "dpo": PAIRS,
    "pretrain": synthetic.texts(30, seed=1),
    "translate": [
        Parallel(text.text[:24], text.text[24:9:-1], text.where) for text in synthetic.texts(30, seed=2)
    ],
    "mask": synthetic.texts(30, seed=3),
    "classify": [Labeled(r.text[:30], r.text.split()[0], r.where) for r in synthetic.texts(60, seed=4)],
    "tag": [
        Tagged(words := tuple(r.text.split()[:7]), tuple(map(tag_of, words)), r.where)
        for r in synthetic.texts(40, seed=5)
    ],
    "embed": [
        Parallel(r.text[:30], " ".join(r.text[:30].split()[::-1]), r.where)
        for r in synthetic.texts(40, seed=6)
    ],
}


@pytest.fixture(scope="session")
def records() -> Callable[[str], list]:
    """A function: stage name → some records that it can be trained on."""
    return lambda name: RECORDS.get(name) or synthetic.conversations(40, seed=1)


@pytest.fixture(scope="session")
def tokenizer(records) -> Tokenizer:
    torch.set_num_threads(1)
    texts = [text for r in records("sft") + records("pretrain") for _, text in parts(r)]
    return Tokenizer.train(texts, 320, (*SPECIALS, MASK))
