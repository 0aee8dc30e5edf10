"""BERT's vocabulary files: what they mean, and what is wrong with damaged ones."""

from __future__ import annotations

import json

import pytest

from lmcraft.core.errors import UserError
from lmcraft.text.tokenizer import Tokenizer

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "un", "##able", "##s", "able", ",", "é"]


def write(place, pieces=PIECES, **config):
    (place / "vocab.txt").write_text("\n".join(pieces) + "\n", encoding="utf-8")
    if config:
        (place / "tokenizer_config.json").write_text(json.dumps(config))
    return place


def test_words_are_cut_into_the_longest_pieces(tmp_path):
    """A difference would mean that a BERT reads other tokens than it was trained on."""
    tokenizer = Tokenizer.load(write(tmp_path))
    assert tokenizer.encode("Unables, able") == [5, 6, 7, 9, 8]
    assert tokenizer.encode("unx able") == [1, 8]
    assert tokenizer.encode("É") == [1]  # the accent goes with the case, and "e" is no piece
    assert tokenizer.decode([5, 6, 9, 8]) == "unable, able"


def test_case_is_kept_where_the_files_say_so(tmp_path):
    """A difference would mean that a cased BERT never sees a capital letter."""
    tokenizer = Tokenizer.load(write(tmp_path, do_lower_case=False))
    assert tokenizer.encode("Un un é") == [1, 5, 10]


def test_roles(tmp_path):
    """A failure would mean that texts lack [CLS], or that a mask is an ordinary word."""
    tokenizer = Tokenizer.load(write(tmp_path))
    assert (tokenizer.pad, tokenizer.bos, tokenizer.eos, tokenizer.mask) == (0, 2, 3, 4)
    assert tokenizer.encode("able [MASK]") == [8, 4]
    assert 4 not in tokenizer.encode_plain("able [MASK]")
    assert tokenizer.encode_texts(["able ? [SEP]"]) == [
        [8, 1, 1, 1, 1]
    ]  # unknown words stay, special ones do not


def test_saved_and_loaded(tmp_path):
    """A difference would mean that a fine-tuned BERT reads otherwise than its base."""
    (tmp_path / "a").mkdir()
    first = Tokenizer.load(write(tmp_path / "a", do_lower_case=False))
    first.save(tmp_path / "b")
    second = Tokenizer.load(tmp_path / "b")
    assert second.roles == first.roles
    assert second.encode("Un unable [MASK]") == first.encode("Un unable [MASK]")


@pytest.mark.parametrize(
    "content,what",
    [
        ("[PAD]\n[UNK]\nun\n", r"lacks \[CLS\], \[SEP\], \[MASK\]"),
        ("\n".join([*PIECES, "un"]), "stands twice"),
        ("", "lacks"),
        (b"\xff\xfe", "not UTF-8"),
    ],
)
def test_damaged_files(tmp_path, content, what):
    """A failure would mean that ids are shifted without a word."""
    data = content if isinstance(content, bytes) else content.encode()
    (tmp_path / "vocab.txt").write_bytes(data)
    with pytest.raises(UserError, match=what):
        Tokenizer.load(tmp_path)
