"""Tokens are shown as people read them."""

from __future__ import annotations

import pytest

from lmcraft.inspect.pieces import label, pieces, word_label, words


def told(text: str, tokenizer) -> list[str]:
    listed = pieces(tokenizer.encode(text), tokenizer)
    return [word_label(listed, group, tokenizer) for group in words(listed)]


@pytest.mark.parametrize(
    "text,expected",
    [
        ("the zebra sat", ["the", "zebra", "sat"]),
        ("zebra.", ["zebra", "."]),
        ("don't go", ["don't", "go"]),
        ("über naïve", ["über", "naïve"]),
        ("a<|endoftext|>b", ["a", "<|endoftext|>", "b"]),
        ("the\nmat", ["the", "↵", "mat"]),
    ],
)
def test_words(tokenizer, text: str, expected: list[str]) -> None:
    """If this failed, the alignment of words would have other words on its axes than the text."""
    assert told(text, tokenizer) == expected


def test_every_token_can_be_shown(tokenizer) -> None:
    """If this failed, some token (a part of a character, a control character) would break the page or be invisible."""
    listed = pieces([*range(tokenizer.size), tokenizer.size + 5], tokenizer)
    for piece in listed:
        assert (piece.label and piece.label.isprintable()) or "\u00a0" in piece.label, piece
    assert len({piece.label for piece in listed}) > 250
    whole = pieces(tokenizer.encode("🙂"), tokenizer)
    assert [piece.text for piece in whole] == ["⟨F0⟩", "⟨9F⟩", "⟨99⟩", "⟨82⟩"]
    assert told("🙂", tokenizer) == ["🙂"]


def test_labels_show_what_cannot_be_seen() -> None:
    """If this failed, a blank or a mark that turns the direction of writing would hide in a picture."""
    assert label(" the") == "the" and label("  ") == "␣␣" and label("") == "∅"
    assert label("a\u202eb\x00") == "aU+202EbU+0000" and label("\n\t") == "↵⇥"
    assert len(label("x" * 100)) == 24
