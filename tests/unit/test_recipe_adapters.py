"""Recipes with adapters: one word, one mapping, a list, and mistakes with their places."""

from __future__ import annotations

import pytest

from lmcraft import recipe
from lmcraft.adapt import lora
from lmcraft.core import config as configs
from lmcraft.core.errors import UserError

BASE = ["data=x", "base=runs/a"]


@pytest.mark.parametrize(
    "arguments,wanted",
    [
        (["adapter=lora"], [lora.Config()]),
        (["adapter=lora", "adapter.rank=4"], [lora.Config(rank=4)]),
        (["adapter.rank=4", "adapter.targets=[attn.q]", "adapter=lora"], [lora.Config(rank=4, targets=("attn.q",))]),
        (["adapter={kind: lora, rank: 2}"], [lora.Config(rank=2)]),
        (["adapter=[lora, {kind: lora, rank: 2}]"], [lora.Config(), lora.Config(rank=2)]),
        (["adapter=none"], []),
        ([], []),
    ],
)  # fmt: skip
def test_every_form_is_a_list(arguments, wanted):
    """If this failed, some way to ask for an adapter would train all of the model."""
    assert list(recipe.read("sft", [*BASE, *arguments]).adapter) == wanted


def test_what_is_written_is_read_again(tmp_path):
    """If this failed, the config of a run with an adapter could not repeat it."""
    found = recipe.read("sft", [*BASE, "adapter=lora", "adapter.rank=4"])
    copy = tmp_path / "copy.yaml"
    copy.write_text(configs.dump(found))
    assert recipe.read(copy).adapter == found.adapter
    assert recipe.read(copy, ["adapter=none"]).adapter == ()


@pytest.mark.parametrize(
    "text,parts",
    [
        ("adapter: loar\n", [":4", "lora"]),
        ("adapter:\n  kind: lora\n  rnk: 3\n", [":6", "rank"]),
        ("adapter:\n- lora\n- kind: lora\n  rank: 0\n", [":7", "greater than 0"]),
        ("adapter: {rank: 3}\n", [":4", "kind is missing"]),
    ],
)
def test_mistakes_name_their_line(tmp_path, text, parts):
    """If this failed, a user would have to search the file."""
    file = tmp_path / "r.yaml"
    file.write_text(f"stage: sft\nbase: runs/a\ndata: x\n{text}")
    with pytest.raises(UserError) as caught:
        recipe.read(file)
    for part in parts:
        assert part in str(caught.value)
