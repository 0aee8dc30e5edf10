"""Made-up data: true, varied, and the same wherever it is made."""

from __future__ import annotations

import random

from lmcraft.data.records import Chat, Text
from lmcraft.data.synthetic import conversations, copies, reversals, texts


def test_answers_are_right():
    """A failure would mean that a model which learns the task perfectly is marked wrong."""
    sums = echoes = 0
    for chat in conversations(300, seed=1):
        assert isinstance(chat, Chat)
        for question, answer in zip(chat.messages[::2], chat.messages[1::2], strict=True):
            assert (question.role, answer.role) == ("user", "assistant")
            if question.content.startswith("Please repeat: "):
                echoes += 1
                assert answer.content == question.content.removeprefix("Please repeat: ")
            else:
                sums += 1
                left, right = question.content.removeprefix("What is ").removesuffix("?").split(" plus ")
                assert int(answer.content) == int(left) + int(right)
    assert sums > 100 < echoes


def test_the_same_seed_gives_the_same_and_chance_elsewhere_is_untouched():
    """A failure would mean that tests built on this data differ from run to run, or change each other."""
    random.seed(5)
    before = random.getstate()
    assert conversations(20, 3) == conversations(20, 3) != conversations(20, 4)
    assert texts(20, 3) == texts(20, 3) != texts(20, 4)
    assert conversations(30, 3)[:20] == conversations(20, 3)
    assert random.getstate() == before


def test_texts_are_sentences():
    """A failure would mean that there is nothing to learn in the made-up documents."""
    made = texts(100)
    assert len({text.text for text in made}) > 95
    assert all(isinstance(text, Text) and 3 <= text.text.count(".") <= 8 for text in made)
    assert texts(0) == []


def test_copies_and_reversals_are_what_they_are_called() -> None:
    """If this failed, a model that copies or reverses perfectly would be marked wrong."""
    for row in copies(50, seed=1, longest=7):
        assert row.target == row.source and 1 <= len(row.source.split()) <= 7
    for row in reversals(50, seed=1, longest=7):
        assert row.target.split() == row.source.split()[::-1]
    assert copies(5, seed=1) == copies(5, seed=1) != copies(5, seed=2)
