"""The alignment has the right tokens on its axes, and its rows sum to 1 however they are joined."""

from __future__ import annotations

import torch

from lmcraft.inspect.align import alignment, joined
from lmcraft.inspect.look import look
from lmcraft.inspect.page import alignments
from lmcraft.inspect.pieces import words
from lmcraft.inspect.record import CROSS


def test_rows_are_predicted_tokens_and_columns_the_source(language_model) -> None:
    """If this failed, the plot would be shifted by one token against the axis."""
    lm = language_model("encdec", layers=2)
    seen = look(lm, "the dog", "cat")
    found = alignment(seen)
    assert found.rows == [piece.label for piece in seen.target[1:]] and found.rows[-1] == "<|endoftext|>"
    assert found.columns == [piece.label for piece in seen.source]
    cross = [one.weights_HTM for one in seen.maps if one.side == CROSS]
    names = [choice.name for choice in found.choices]
    assert names[:4] == [
        "layer 2, mean of its heads", "layer 1, mean of its heads", "mean of all layers and heads", "layer 2, head 1"
    ]  # fmt: skip
    assert len(names) == 3 + 8
    torch.testing.assert_close(found.choices[0].weights_TS, cross[1].mean(dim=0))
    torch.testing.assert_close(found.choices[names.index("layer 1, head 3")].weights_TS, cross[0][2])
    assert alignment(look(language_model("decoder"), "the dog")) is None


def test_joining_pieces_to_words(language_model) -> None:
    """If this failed, words of many pieces would look more or less attended to than they are."""
    weights_TS = torch.tensor([[0.1, 0.2, 0.7], [0.3, 0.3, 0.4]])
    torch.testing.assert_close(joined(weights_TS, [[0, 1]], [[0, 1], [2]]), torch.tensor([[0.45, 0.55]]))
    lm = language_model("encdec")
    seen = look(lm, "zebra the", "sat quick")
    tokens, by_words = (one for _, one in alignments(seen, lm.tokenizer, by_words=False))
    assert by_words.columns == ["zebra", "the", "<|endoftext|>"] and by_words.rows == [
        "sat",
        "quick",
        "<|endoftext|>",
    ]
    assert len(tokens.columns) > 3 and len(tokens.choices) == len(by_words.choices)
    for choice in by_words.choices:
        torch.testing.assert_close(choice.weights_TS.sum(dim=1), torch.ones(3))
    assert [label for label, _ in alignments(seen, lm.tokenizer, by_words=True)] == ["words", "tokens"]
    assert sum(map(len, words(seen.source))) == len(seen.source)
