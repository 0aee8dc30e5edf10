"""Sizes by one word, `model.preset=tiny`, where any setting given beside it wins; and sizes that follow from others.

Parameters without the embedding, roughly: nano 0.2, tiny 3, small 11, base 85 million.

Proved by tests/unit/models/test_presets.py.
"""

from __future__ import annotations

from typing import Any, Literal

from ..layers.mlp import GATED

Preset = Literal["nano", "tiny", "small", "base"]
PRESETS: dict[str, dict[str, dict[str, int]]] = {
    "decoder": {
        "nano": {"layers": 2, "width": 64, "heads": 2},
        "tiny": {"layers": 4, "width": 256, "heads": 4},
        "small": {"layers": 6, "width": 384, "heads": 6},
        "base": {"layers": 12, "width": 768, "heads": 12},
    },
    "encoder": {
        "nano": {"layers": 2, "width": 64, "heads": 2},
        "tiny": {"layers": 4, "width": 256, "heads": 4},
        "small": {"layers": 6, "width": 384, "heads": 6},
        "base": {"layers": 12, "width": 768, "heads": 12},
    },
    "encdec": {
        "nano": {"layers": 2, "width": 64, "heads": 2},
        "tiny": {"layers": 2, "width": 256, "heads": 4},
        "small": {"layers": 3, "width": 384, "heads": 6},
        "base": {"layers": 6, "width": 512, "heads": 8},
    },
    "rnn": {
        "nano": {"layers": 1, "width": 64},
        "tiny": {"layers": 2, "width": 384},
        "small": {"layers": 3, "width": 640},
        "base": {"layers": 4, "width": 1536},
    },
    "seq2seq": {
        "nano": {"layers": 1, "width": 64},
        "tiny": {"layers": 2, "width": 192},
        "small": {"layers": 2, "width": 384},
        "base": {"layers": 3, "width": 1024},
    },
}


def fill(kind: str, values: Any) -> Any:
    """`values` with the sizes of its preset where it does not give its own; an unknown one is left for `Preset`."""
    sizes = PRESETS[kind].get(str(values.get("preset"))) if isinstance(values, dict) else None
    return {**sizes, **values} if sizes else values


def head_width(width: int, heads: int, given: int | None = None) -> int:
    """The width of one head where none is given.

    Raises:
        ValueError: the heads do not share the width evenly.
    """
    if given is None and width % heads:
        raise ValueError(f"width {width} is not divisible by heads {heads}")
    return given or width // heads


def mlp_width(width: int, kind: str) -> int:
    """The usual feed-forward width: 4 times the width, or 8/3 of it with a gate, which is a third matrix."""
    return -(-8 * width // 3 // 32) * 32 if kind in GATED else 4 * width
