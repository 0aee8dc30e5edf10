"""Shapes, parameters and memory are those of the model."""

from __future__ import annotations

import torch

from lmcraft.inspect.look import look
from lmcraft.inspect.shapes import Call, folded, memory_use, traced
from lmcraft.models.model import count_parameters


def every(calls: list[Call]) -> list[Call]:
    return [one for call in calls for one in (call, *every(call.inside))]


def test_parameters_add_up(language_model, kind: str, settings: dict) -> None:
    """If this failed, a part of the model would be missing from the table, or a shared matrix counted twice."""
    lm = language_model(kind, **settings)
    seen = look(lm, "the cat", "sat" if lm.model.generates else None)
    assert sum(call.parameters * call.copies for call in seen.calls) == count_parameters(lm.model)


def test_shapes_in_order(language_model) -> None:
    """If this failed, the table would tell another order or another shape than what ran."""
    model = language_model("decoder", kv_heads=2).model
    with torch.no_grad(), traced(model) as calls:
        model.head(model(torch.tensor([[3, 4, 5, 6, 7]])))
    names = [call.name for call in every(calls)]
    assert names[0] == "embedding" and names[-2:] == ["norm", "output"]
    assert names.index("blocks.0.attn.q") < names.index("blocks.0.attn.k") < names.index("blocks.0.attn.out")
    shapes = {call.name: call.shape for call in every(calls)}
    assert shapes["blocks.0.attn.q"] == (1, 5, 32) and shapes["blocks.0.attn.k"] == (1, 5, 16)
    assert shapes["output"] == (1, 5, model.config.vocab) and calls[-1].tied and calls[-1].parameters == 0
    short = folded(calls)
    assert [(call.name, call.copies) for call in short] == [
        ("embedding", 1), ("blocks.0", 3), ("norm", 1), ("output", 1)
    ]  # fmt: skip
    assert short[1].parameters == sum(p.numel() for p in model.blocks[0].parameters())


def test_memory_for_each_token(language_model) -> None:
    """If this failed, the page would promise longer texts than fit, or frighten with too large a number."""
    use = memory_use(language_model("decoder", kv_heads=2).model)
    assert (
        use.per_token == 2 * 3 * 2 * 8 * 4 and use.per_source_token is None
    )  # keys and values, layers, heads, width
    use = memory_use(language_model("encdec").model)
    assert use.per_token == 2 * 3 * 32 * 4
    assert use.per_source_token == 2 * 3 * 32 * 4 + 8  # and the segment of each source token
    use = memory_use(language_model("rnn").model)
    assert use.per_token == 0 and use.fixed == 2 * 3 * 32 * 4  # hidden and cell state of three layers
