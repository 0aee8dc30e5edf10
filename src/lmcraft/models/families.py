"""Public model families: how their config.json and tensor names map to ours, and back.

A family is expressible when the decoder's Config describes exactly the same function; anything in a config.json that
would change the function and has no counterpart here is refused, never ignored.

Families: gpt2, llama, mistral, qwen2, qwen3.
Proved by tests/parity/test_decoder.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ..core.errors import UserError
from . import decoder


@dataclass(frozen=True)
class Link:
    """One public tensor and our tensors that it holds (several: joined along the first dimension)."""

    public: str
    ours: tuple[str, ...]
    transposed: bool = False


def links(family: str, config: decoder.Config) -> Iterator[Link]:
    """All tensors of a family, for a model of this config."""
    table = _gpt2 if family == "gpt2" else _llama
    yield from table(config)


def _llama(config: decoder.Config) -> Iterator[Link]:
    yield Link("model.embed_tokens.weight", ("embedding.weight",))
    for i in range(config.layers):
        public, ours = f"model.layers.{i}", f"blocks.{i}"
        yield Link(f"{public}.input_layernorm.weight", (f"{ours}.attn_norm.weight",))
        yield Link(f"{public}.post_attention_layernorm.weight", (f"{ours}.mlp_norm.weight",))
        for letter in "qkv":
            yield Link(f"{public}.self_attn.{letter}_proj.weight", (f"{ours}.attn.{letter}.weight",))
            if config.bias == "qkv":
                yield Link(f"{public}.self_attn.{letter}_proj.bias", (f"{ours}.attn.{letter}.bias",))
        yield Link(f"{public}.self_attn.o_proj.weight", (f"{ours}.attn.out.weight",))
        if config.qk_norm:
            yield Link(f"{public}.self_attn.q_norm.weight", (f"{ours}.attn.q_norm.weight",))
            yield Link(f"{public}.self_attn.k_norm.weight", (f"{ours}.attn.k_norm.weight",))
        for name in ("gate", "up", "down"):
            yield Link(f"{public}.mlp.{name}_proj.weight", (f"{ours}.mlp.{name}.weight",))
    yield Link("model.norm.weight", ("norm.weight",))
    if not config.tied:
        yield Link("lm_head.weight", ("output.weight",))


def _gpt2(config: decoder.Config) -> Iterator[Link]:
    yield Link("transformer.wte.weight", ("embedding.weight",))
    yield Link("transformer.wpe.weight", ("position.weight",))
    for i in range(config.layers):
        public, ours = f"transformer.h.{i}", f"blocks.{i}"
        for part in ("weight", "bias"):
            turned = part == "weight"  # GPT-2 keeps its matrices as [in, out]
            yield Link(f"{public}.ln_1.{part}", (f"{ours}.attn_norm.{part}",))
            yield Link(
                f"{public}.attn.c_attn.{part}", tuple(f"{ours}.attn.{x}.{part}" for x in "qkv"), turned
            )
            yield Link(f"{public}.attn.c_proj.{part}", (f"{ours}.attn.out.{part}",), turned)
            yield Link(f"{public}.ln_2.{part}", (f"{ours}.mlp_norm.{part}",))
            yield Link(f"{public}.mlp.c_fc.{part}", (f"{ours}.mlp.up.{part}",), turned)
            yield Link(f"{public}.mlp.c_proj.{part}", (f"{ours}.mlp.down.{part}",), turned)
    yield Link("transformer.ln_f.weight", ("norm.weight",))
    yield Link("transformer.ln_f.bias", ("norm.bias",))
    if not config.tied:
        yield Link("lm_head.weight", ("output.weight",))


def family_of(config: decoder.Config) -> str | None:
    """The public family that computes the same function, or None."""
    if config.dropout:
        config = config.model_copy(update={"dropout": 0.0})
    llama_like = config.positions == "rotary" and config.norm == "rmsnorm" and config.mlp == "swiglu"
    if llama_like and config.qk_norm:
        return "qwen3" if config.bias == "none" and config.window is None else None
    if llama_like and config.bias == "qkv":
        square = config.head_width == config.width // config.heads
        return "qwen2" if config.window is None and square else None
    if llama_like and config.bias == "none":
        return "llama" if config.window is None else "mistral"
    gpt2_like = (config.positions, config.norm, config.mlp, config.bias) == (
        "learned",
        "layernorm",
        "gelu",
        "all",
    )
    plain = config.kv_heads == config.heads and config.window is None and not config.qk_norm
    if gpt2_like and plain and config.head_width == config.width // config.heads:
        return "gpt2"
    return None


CLASSES = {
    "gpt2": "GPT2LMHeadModel",
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}


def to_public(family: str, config: decoder.Config) -> dict[str, Any]:
    """The config.json of a family."""
    head = {
        "architectures": [CLASSES[family]], "model_type": family, "vocab_size": config.vocab,
        "tie_word_embeddings": config.tied, "torch_dtype": "float32",
    }  # fmt: skip
    if family == "gpt2":
        return head | {
            "n_positions": config.context, "n_embd": config.width, "n_layer": config.layers, "n_head": config.heads,
            "n_inner": config.mlp_width, "activation_function": "gelu_new", "layer_norm_epsilon": config.norm_eps,
            "resid_pdrop": config.dropout, "embd_pdrop": config.dropout, "attn_pdrop": 0.0,
        }  # fmt: skip
    body = {
        "hidden_size": config.width, "intermediate_size": config.mlp_width, "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads, "num_key_value_heads": config.kv_heads, "head_dim": config.head_width,
        "hidden_act": "silu", "max_position_embeddings": config.context, "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope_base, "attention_bias": False, "mlp_bias": False, "attention_dropout": 0.0,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_base},
    }  # fmt: skip
    if family == "mistral":
        body["sliding_window"] = config.window
    if family in ("qwen2", "qwen3"):
        body["use_sliding_window"] = False
    return head | body


def from_public(public: dict[str, Any], where: str) -> tuple[str, decoder.Config]:
    """Family and our Config of a config.json.

    Raises:
        UserError: a family that is not known, or a setting that would be ignored.
    """
    family = public.get("model_type")
    if family not in CLASSES:
        raise UserError(
            f"models of type {family!r} cannot be read", where=where, why=f"known types: {', '.join(CLASSES)}"
        )
    return family, (_from_gpt2(public, where) if family == "gpt2" else _from_llama(family, public, where))


def _from_gpt2(public: dict[str, Any], where: str) -> decoder.Config:
    _require(public, where, activation_function=("gelu_new", "gelu_pytorch_tanh"), scale_attn_weights=(True,),
             scale_attn_by_inverse_layer_idx=(False,), add_cross_attention=(False,))  # fmt: skip
    return decoder.Config(
        vocab=public["vocab_size"], context=public.get("n_positions", 1024), layers=public["n_layer"],
        width=public["n_embd"], heads=public["n_head"], mlp_width=public.get("n_inner") or 4 * public["n_embd"],
        positions="learned", norm="layernorm", norm_eps=public.get("layer_norm_epsilon", 1e-5), mlp="gelu",
        bias="all", tied=public.get("tie_word_embeddings", True),
    )  # fmt: skip


def _from_llama(family: str, public: dict[str, Any], where: str) -> decoder.Config:
    _require(public, where, hidden_act=("silu",), mlp_bias=(False,), use_sliding_window=(False,))
    if family != "qwen2":
        _require(public, where, attention_bias=(False,))
    rope = public.get("rope_parameters") or public.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default":
        raise UserError(f"rotary scaling {kind!r} is not supported yet", where=where,
                        why="without it, long texts would silently come out wrong")  # fmt: skip
    return decoder.Config(
        vocab=public["vocab_size"], context=public["max_position_embeddings"], layers=public["num_hidden_layers"],
        width=public["hidden_size"], heads=public["num_attention_heads"],
        kv_heads=public.get("num_key_value_heads") or public["num_attention_heads"],
        head_width=public.get("head_dim"), mlp_width=public["intermediate_size"],
        rope_base=rope.get("rope_theta", public.get("rope_theta", 10000.0)), norm_eps=public["rms_norm_eps"],
        window=public.get("sliding_window") if family == "mistral" else None,
        bias="qkv" if family == "qwen2" else "none", qk_norm=family == "qwen3",
        tied=public.get("tie_word_embeddings", False),
    )  # fmt: skip


def _require(public: dict[str, Any], where: str, **allowed: tuple) -> None:
    for key, values in allowed.items():
        if key in public and public[key] not in values:
            raise UserError(
                f"{key} = {public[key]!r} is not supported", where=where,
                why=f"supported: {', '.join(map(repr, values))}; ignoring it would change what the model computes",
            )  # fmt: skip
