"""Rows of preferences: one target where both answers begin, what is cut, and what is left out."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from lmcraft.data import preferences
from lmcraft.data.batch import IGNORE
from lmcraft.data.loader import Loader
from lmcraft.data.preferences import answer_masks, example, taking_part
from lmcraft.data.records import Message, Pair, Where
from lmcraft.data.tokens import write
from lmcraft.text.chat import ChatTemplate
from lmcraft.text.tokenizer import Tokenizer

TEXTS = ["one two three four five six seven eight nine ten"]


def pair(prompt: str, chosen: str, rejected: str, **more) -> Pair:
    """A preference of plain strings."""
    said = ((Message("assistant", one),) for one in (chosen, rejected))
    return Pair((Message("user", prompt),), *said, Where("pairs.jsonl", 1), **more)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(TEXTS, 300)


def rows(tokenizer, pairs, width=100, overflow="truncate", template="chatml"):
    counts: Counter = Counter()
    load = ChatTemplate.load(template, tokenizer) if template else None
    examples = [example(one) for one in pairs]
    return [*preferences.documents(examples, tokenizer, load, width, overflow, counts)], counts


def test_one_target_where_both_begin(tokenizer):
    """A failure would mean that a batch counts tokens for pairs, or that an answer begins in its prompt."""
    ((made,), counts) = rows(tokenizer, [pair("one two", "three", "four five", margin=0.5, weight=2.0)])
    template = ChatTemplate.load("chatml", tokenizer)
    start = len(template.prompt([{"role": "user", "content": "one two"}]))
    assert [place for place, label in enumerate(made.labels) if label != IGNORE] == [start]
    assert made.ids[:start] == made.source[:start] and len(made.labels) == len(made.ids)
    assert (
        tokenizer.decode(made.ids[start:]) == "three" and tokenizer.decode(made.source[start:]) == "four five"
    )
    assert made.signals == {"margin": 0.5, "weight": 2.0} and not counts


def test_a_long_pair_loses_the_beginning_of_its_prompt(tokenizer):
    """A failure would mean that the end of an answer, which is judged, is cut off; or that the two sides part."""
    long = pair(" ".join(TEXTS * 3), "ten", "nine ten")
    ((whole,), _) = rows(tokenizer, [long])
    width = len(whole.source) - 7
    ((made,), counts) = rows(tokenizer, [long], width)
    assert len(made.source) == width and made.ids[1:] == whole.ids[8:] and made.source[1:] == whole.source[8:]
    assert made.labels == whole.labels[7:] and made.ids[0] == made.source[0] == whole.ids[0] == tokenizer.bos
    assert counts["prompts truncated at their beginning"] == 1
    assert rows(tokenizer, [long], width, "drop") == ([], Counter({"dropped, too long": 1}))
    assert rows(tokenizer, [long], 4) == ([], Counter({"dropped, too long": 1}))


def test_bos_stays(tokenizer):
    """A failure would mean that a truncated prompt begins as the model has never seen a text begin."""
    assert tokenizer.beginning
    long = pair(" ".join(TEXTS * 3), "ten", "nine")
    ((whole,), _) = rows(tokenizer, [long], template=None)
    ((made,), _) = rows(tokenizer, [long], max(len(whole.ids), len(whole.source)) - 5, template=None)
    assert made.ids == whole.ids[:1] + whole.ids[6:] and made.ids[0] == tokenizer.bos


def test_masks_cover_the_answers_and_nothing_else(tokenizer, tmp_path):
    """A failure would mean that DPO sums over the prompt, or over padding (trap 49)."""
    made, _ = rows(tokenizer, [pair("one", "two", "three four"), pair("one two three", "four", "five")])
    loader = Loader(write(tmp_path / "shard", made, tokenizer.size, {}, Counter()), 64, 2, seed=0, pack=False)
    batch = loader.batch([0, 1])
    batch.targets_BT[1] = IGNORE
    better_BT, worse_BT = answer_masks(batch)
    taking_B, start_B = taking_part(batch)
    assert taking_B.tolist() == [True, False] and batch.count == 1
    start = int(start_B[0])
    assert batch.tokens_BT[0][better_BT[0]].tolist() == made[0].ids[start:]
    assert batch.source.tokens_BS[0][worse_BT[0]].tolist() == made[0].source[start:]
    assert not better_BT[1].any() and not worse_BT[1].any()
    assert torch.equal(batch.signals["weight"], torch.ones(2))
