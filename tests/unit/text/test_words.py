"""Words and their tokens, for byte-level and WordPiece vocabularies."""

from __future__ import annotations

import random

import pytest

from lmcraft.text import wordpiece
from lmcraft.text.special import BERT, Roles
from lmcraft.text.tokenizer import Tokenizer
from lmcraft.text.words import Words, encode_words, pieces, split_words, word_starts

SENTENCES = [
    ["The", "stock-market", "fell", "3.5", "%", "."],
    ["naïve", "Zoë", "北京", "🦄", "d'accord", "New York"],
    ["", "a", "\u200b", "b"],
    [],
]


@pytest.fixture(scope="module", params=["bytes", "wordpiece"])
def tokenizer(request) -> Tokenizer:
    if request.param == "bytes":
        return Tokenizer.train([" ".join(s) for s in SENTENCES] * 3, 300)
    words = "the stock - market fe ##ll 3 . 5 % na ##i ##ve z ##oe d ' acc ##ord new york a b".split()
    names = {piece: number for number, piece in enumerate([*BERT.values(), *words])}
    return Tokenizer(wordpiece.build(names, {}, ""), Roles(**BERT))


def test_each_word_begins_at_its_first_token(tokenizer):
    """A difference would mean that a tag is trained at another word (first-subword labels)."""
    for words, found in zip(SENTENCES, encode_words(tokenizer, SENTENCES), strict=True):
        assert found.ids == tokenizer.encode_plain(" ".join(words))
        assert len(found.first) == len(words) and len(found.of) == len(found.ids)
        for number, (word, first) in enumerate(zip(words, found.first, strict=True)):
            own = [place for place, word_number in enumerate(found.of) if word_number == number]
            assert (first is None) == (not own)
            if own:
                assert first == own[0] and own == list(range(own[0], own[-1] + 1))
                if not tokenizer.marks_continuations:  # bytes give the text back as it was
                    assert tokenizer.decode([found.ids[place] for place in own]).strip() == word


def test_pieces_of_a_word_by_hand(tokenizer):
    """A difference would mean that marks inside a word, or accents, shift the tags."""
    (found,) = encode_words(tokenizer, [["naïve", "d'accord", "fell"]])
    if tokenizer.marks_continuations:
        assert [tokenizer.token(i) for i in found.ids] == "na ##i ##ve d ' acc ##ord fe ##ll".split()
        assert found.first == [0, 3, 7] and found.of == [0, 0, 0, 1, 1, 1, 1, 2, 2]
    else:
        assert found.of == sorted(found.of) and {*found.of} == {0, 1, 2}


def test_words_of_nothing_have_no_token(tokenizer):
    """A failure would mean that every tag after an invisible word is shifted by one."""
    (found,) = encode_words(tokenizer, [["a", "", "b"]])
    assert found.first[1] is None and found.first[0] == 0 and found.first[2] is not None


def test_special_tokens_in_words_are_words(tokenizer):
    """A failure would mean that data can end a text or hide a word."""
    special = next(iter(tokenizer.specials))
    (found,) = encode_words(tokenizer, [["a", special, "b"]])
    assert tokenizer.specials[special] not in found.ids and found.first[2] is not None


def test_pieces_part_between_words():
    """A failure would mean that a word is cut although there was room, or a token is lost or doubled."""
    draw = random.Random(0)
    for _ in range(200):
        sizes = [draw.randint(1, 4) for _ in range(draw.randint(0, 12))]
        of = [word for word, size in enumerate(sizes) for _ in range(size)]
        first = [of.index(word) for word in range(len(sizes))]
        room = draw.randint(2, 9)
        spans = pieces(Words(list(of), first, of), room)
        assert [i for start, stop in spans for i in range(start, stop)] == list(range(len(of)))
        assert all(0 < stop - start <= room for start, stop in spans)
        for start, _ in spans[1:]:
            assert start in first or max(sizes) > room


def test_which_tokens_begin_words(tokenizer):
    """A failure would mean that whole-word masking hides half words."""
    starts = word_starts(tokenizer)
    assert len(starts) == tokenizer.size
    (found,) = encode_words(tokenizer, [["market", "fell", "d'accord"]])
    begins = [tokenizer.size and starts[number] for number in found.ids]
    for place, word in enumerate(found.of):
        if place and word != found.of[place - 1]:
            assert begins[place]
    assert all(starts[number] for number in tokenizer.special_ids)


def test_plain_text_is_cut_as_in_tagged_corpora():
    """A difference would mean that a tagger sees other words than it was trained on."""
    text = "EU rejects 3.5 % of Peter's call, it said (Reuters)."
    expected = "EU rejects 3.5 % of Peter ' s call , it said ( Reuters ) .".split()
    assert split_words(text) == expected
