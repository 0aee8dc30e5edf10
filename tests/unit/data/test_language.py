"""The made language has the probabilities and the entropy that it says."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from lmcraft.data.language import SPACE, VOCAB, Language

SMALL = Language(words=12, classes=3, seed=0)


def test_no_word_is_spelled_as_another_and_common_ones_are_short() -> None:
    """If this failed, a text could be read in two ways, and its probability would be wrong."""
    large = Language(words=600, classes=4, seed=1)
    words = [tuple(word) for word in large.spelling]
    assert len(set(words)) == 600 and all(word[-1] == SPACE and word.count(SPACE) == 1 for word in words)
    assert all(0 <= letter < VOCAB for word in words for letter in word)
    assert sum(map(len, words[:50])) < sum(map(len, words[-50:]))
    assert large.spelling == Language(600, 4, 1).spelling != Language(600, 4, 2).spelling


def test_probabilities_of_all_texts_of_a_length_sum_to_one() -> None:
    """If this failed, the calculated loss would not be that of a model, and a real one could come below it."""
    tiny = Language(words=5, classes=2, seed=3)
    letters = sorted({letter for word in tiny.spelling for letter in word})
    total = 0.0
    for text in itertools.product(letters, repeat=4):
        try:
            total += math.exp(-tiny.surprise(list(text)))
        except KeyError:  # not a text of the language
            continue
    assert total == pytest.approx(1, abs=1e-6)


def test_the_surprise_of_a_rest_is_that_of_the_whole_without_the_beginning() -> None:
    """If this failed, characters that a model is not asked for would count."""
    text = SMALL.text(torch.Generator().manual_seed(0), 1, 20)[0].tolist()
    assert SMALL.surprise(text, 7) == pytest.approx(SMALL.surprise(text) - SMALL.surprise(text[:7]))


def test_long_texts_have_the_entropy() -> None:
    """If this failed, text, probabilities and entropy would be of different languages."""
    texts_BT = SMALL.text(torch.Generator().manual_seed(0), 40, 400)
    per_character = sum(SMALL.surprise(row) for row in texts_BT.tolist()) / texts_BT.numel()
    assert per_character == pytest.approx(SMALL.entropy, rel=0.03)


def test_words_follow_the_grammar() -> None:
    """If this failed, a model that knows the grammar would gain nothing by it."""
    one = SMALL.next_class_XX
    assert torch.allclose(one.sum(dim=1), torch.ones(3)) and float(one.max()) > 0.6
    assert torch.allclose(SMALL.first_class_X @ one, SMALL.first_class_X, atol=1e-5)
    assert torch.allclose(SMALL.word_odds_XW.sum(dim=1), torch.ones(3))
    assert ((SMALL.word_odds_XW > 0).sum(dim=0) == 1).all()
