"""Rotary settings of public config.json files, spelled the new way (`rope_parameters`) and the old (`rope_scaling`).

1. `rope_scaling` wins where both are given, as in the public implementation.
2. For linear and dynamic scaling, `max_position_embeddings` is the trained length and a text may be `factor` times as
   long; yarn and llama3 name the trained length themselves.
3. Written are both spellings where positions are stretched, so that readers of either age stretch them.

Proved by tests/parity/test_decoder.py and tests/unit/models/test_families.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ...layers.rope import Rope
from .family import refusal

EVERYWHERE = {"type", "rope_type", "rope_theta", "partial_rotary_factor"}
TRAINED = "original_max_position_embeddings"
KNOWN = {
    "default": {"factor", TRAINED},
    "linear": {"factor", TRAINED},
    "dynamic": {"factor", TRAINED},
    "yarn": {"factor", TRAINED, "attention_factor", "beta_fast", "beta_slow", "truncate", "mscale", "mscale_all_dim"},
    "llama3": {"factor", TRAINED, "low_freq_factor", "high_freq_factor"},
}  # fmt: skip


def read(public: Mapping[str, Any], where: str, default_base: float = 10000.0) -> dict[str, Any]:
    """`context`, `rope_base` and `rope` of a config.json."""
    given = public.get("rope_scaling") or public.get("rope_parameters") or {}
    base = given.get("rope_theta") or public.get("rope_theta") or default_base
    context = public["max_position_embeddings"]
    rope = stretch(given, public, where)
    if rope is not None and rope.kind != "llama3":
        context = max(context, int(rope.original_context * rope.factor))
    return {"context": context, "rope_base": base, "rope": rope}


def stretch(given: Mapping[str, Any], public: Mapping[str, Any], where: str) -> Rope | None:
    """The scaling that a rotary dictionary asks for; None if it asks for none.

    Raises:
        UserError: another kind of scaling, or a setting of it that would be ignored.
    """
    kind = given.get("rope_type") or given.get("type") or "default"
    if kind not in KNOWN:
        raise refusal(f"rotary scaling {kind!r}", where, f"supported: {', '.join(KNOWN)}")
    for key, value in given.items():
        if key not in EVERYWHERE | KNOWN[kind] and value is not None:
            raise refusal(f"{key} = {value!r} of rotary scaling {kind!r}", where, "it is not known here")
    for place in (given, public):
        if place.get("partial_rotary_factor") not in (None, 1, 1.0):
            raise refusal("partial_rotary_factor", where, "rotary positions turn all channels of a head")
    if kind == "default":
        return None
    longest = public["max_position_embeddings"]
    if kind in ("linear", "dynamic"):
        return Rope(kind=kind, factor=given["factor"], original_context=longest)
    trained = public.get(TRAINED) or given.get(TRAINED) or longest
    factor = given.get("factor") or longest / trained
    if kind == "llama3":
        low, high = given["low_freq_factor"], given["high_freq_factor"]
        return Rope(
            kind=kind, factor=factor, original_context=trained, low_freq_factor=low, high_freq_factor=high
        )
    return Rope(
        kind=kind, factor=factor, original_context=trained, attention_factor=_attention_factor(given, factor),
        beta_fast=given.get("beta_fast") or 32.0, beta_slow=given.get("beta_slow") or 1.0,
        truncate=given.get("truncate", True),
    )  # fmt: skip


def _attention_factor(given: Mapping[str, Any], factor: float) -> float | None:
    """DeepSeek's two settings stand for a quotient (arXiv 2405.04434, section 3.1.4)."""
    if given.get("attention_factor") is not None:
        return float(given["attention_factor"])
    over, under = given.get("mscale"), given.get("mscale_all_dim")
    if over and under and factor > 1:
        return (0.1 * over * math.log(factor) + 1.0) / (0.1 * under * math.log(factor) + 1.0)
    return None


def write(base: float, rope: Rope | None, context: int) -> dict[str, Any]:
    """The rotary part of a config.json, with the length that belongs to it."""
    plain = {"rope_theta": base, "max_position_embeddings": context}
    if rope is None:
        return plain | {"rope_parameters": {"rope_type": "default", "rope_theta": base}}
    given = parameters(rope, base)
    if rope.kind in ("linear", "dynamic"):
        plain["max_position_embeddings"] = rope.original_context
    return plain | {"rope_parameters": given, "rope_scaling": given}


def parameters(rope: Rope, base: float) -> dict[str, Any]:
    """One rotary dictionary."""
    given: dict[str, Any] = {"rope_type": rope.kind, "rope_theta": base, "factor": rope.factor}
    if rope.kind in ("yarn", "llama3"):
        given[TRAINED] = rope.original_context
    if rope.kind == "llama3":
        return given | {"low_freq_factor": rope.low_freq_factor, "high_freq_factor": rope.high_freq_factor}
    if rope.kind == "yarn":
        given |= {"beta_fast": rope.beta_fast, "beta_slow": rope.beta_slow}
        given |= {} if rope.truncate else {"truncate": False}
        given |= {} if rope.attention_factor is None else {"attention_factor": rope.attention_factor}
    return given


def expressible(rope: Rope | None, context: int) -> bool:
    """Whether reading what `write` writes gives the same context back."""
    if rope is None or rope.kind == "llama3":
        return True
    reached = int(rope.original_context * rope.factor)
    return context >= reached if rope.kind == "yarn" else context == reached
