"""Sizes by one word: what is given beside a preset wins, and every preset builds."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from lmcraft.core import find
from lmcraft.models import decoder, model
from lmcraft.models.model import count_parameters
from lmcraft.models.presets import PRESETS

MILLIONS = {"nano": 0.2, "tiny": 3, "small": 11, "base": 85}


@pytest.mark.parametrize("kind,name", [(kind, name) for kind, table in PRESETS.items() for name in table])
def test_a_preset_has_the_size_that_it_promises(kind, name):
    """A failure would mean that `model.preset=small` is ten times what a laptop can train."""
    schema = find.module("models", kind).Config
    with torch.device("meta"):
        net = model.build(schema(preset=name, vocab=100))
    millions = (count_parameters(net) - net.embedding.weight.numel()) / 1e6
    assert 0.15 * MILLIONS[name] < millions < 1.5 * MILLIONS[name]


def test_what_is_given_wins():
    """A failure would mean that a setting beside a preset is ignored."""
    config = decoder.Config(preset="tiny", layers=1)
    assert (config.layers, config.width, config.heads) == (1, 256, 4)


def test_an_unknown_preset_is_a_mistake_with_the_names():
    """A failure would mean that a typing error gives another size."""
    with pytest.raises(ValidationError, match=r"nano.*tiny.*small.*base"):
        decoder.Config(preset="huge")


@pytest.mark.parametrize(
    "settings,what",
    [
        ({"width": 10, "heads": 4}, "not divisible by heads"),
        ({"width": 4, "heads": 8}, "not divisible by heads"),
        ({"heads": 6, "width": 48, "kv_heads": 4}, "not divisible by kv_heads"),
        ({"width": 12, "heads": 4}, "even head_width"),
        ({"layers": 0}, "greater than 0"),
        ({"dropout": 1.0}, "less than 1"),
        ({"widht": 8}, "Extra inputs"),
    ],
    ids=str,
)
def test_impossible_shapes_are_refused(settings, what):
    """A failure would mean a crash deep in the model, or another shape than asked for."""
    with pytest.raises(ValidationError, match=what):
        decoder.Config(**settings)


def test_defaults_are_filled_in():
    """A failure would mean that a stored config does not say what was trained."""
    config = decoder.Config(width=96, heads=3)
    assert (config.kv_heads, config.head_width, config.mlp_width) == (3, 32, 256)
    assert decoder.Config(width=96, heads=3, mlp="gelu").mlp_width == 384
    assert decoder.Config(**config.model_dump()) == config
