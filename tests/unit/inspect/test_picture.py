"""What a picture holds is what the weights are."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
import torch
from matplotlib.image import imread

from lmcraft.inspect.picture import address, heat, png


@pytest.mark.parametrize("linear", [True, False])
def test_pixels_are_weights(linear: bool) -> None:
    """If this failed, the page would read other numbers out of the picture than the model gave."""
    torch.manual_seed(0)
    weights_TM = torch.softmax(4 * torch.randn(7, 5), dim=-1)
    weights_TM[0, 0], weights_TM[1, 1] = 0.0, 1.0
    data = base64.b64decode(address(png(weights_TM, linear)).partition(",")[2])
    read = imread(io.BytesIO(data), format="png")
    assert read.shape == (7, 5)
    found = read if linear else read**2
    assert np.abs(found - weights_TM.numpy()).max() < 0.004
    assert read[0, 0] == 0 and read[1, 1] == 1


def test_labels_stand_at_their_rows_and_are_escaped() -> None:
    """If this failed, a token could write markup into the page, or rows would be named wrongly."""
    svg = heat("data:x", ["<b>", "日本"], ["&amp;", "c", '"'], 'a "picture"')
    assert "&lt;b&gt;" in svg and "&amp;amp;" in svg and "<b>" not in svg and "a &#34;picture&#34;" in svg
    assert svg.count("<text") == 5 and svg.index("&lt;b&gt;") < svg.index("日本")
