"""The picture of an inspection is a PNG, whatever the tokens are."""

from __future__ import annotations

import io

import pytest
from matplotlib.image import imread

from lmcraft.inspect.look import look
from lmcraft.inspect.overview import draw


@pytest.mark.parametrize("kind,target", [("encdec", "the $x$ 🙂"), ("decoder", None), ("rnn", None)])
def test_the_picture(language_model, kind: str, target: str | None) -> None:
    """If this failed, a character that no font has, or one that looks like a formula, would end the command."""
    lm = language_model(kind)
    data = draw("a $model$_1", look(lm, "the \\frac $cat 🙂 \u202e 日本", target), lm.tokenizer)
    picture = imread(io.BytesIO(data), format="png")
    assert 200 < picture.shape[0] < 4000 and 200 < picture.shape[1] < 4000
    assert picture[..., :3].std() > 0.05  # something is drawn
