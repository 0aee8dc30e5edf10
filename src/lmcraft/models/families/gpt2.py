"""GPT-2: learned positions, layer norms, GELU, biases everywhere; its matrices are kept as [in, out].

Proved by tests/parity/test_decoder.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .. import decoder
from .family import Link, require

TYPES = {"gpt2": "GPT2LMHeadModel"}
PREFIXES = {"": "transformer."}
LEFT_OUT = {r"(transformer\.)?h\.\d+\.attn\.(bias|masked_bias)": "the causal mask, as a buffer"}


def from_public(public: dict[str, Any], where: str) -> decoder.Config:
    """Our Config of a config.json."""
    require(
        public, where, activation_function=("gelu_new", "gelu_pytorch_tanh"), scale_attn_weights=(True,),
        scale_attn_by_inverse_layer_idx=(False,), add_cross_attention=(False,),
    )  # fmt: skip
    return decoder.Config(
        vocab=public["vocab_size"], context=public.get("n_positions", 1024), layers=public["n_layer"],
        width=public["n_embd"], heads=public["n_head"], mlp_width=public.get("n_inner") or 4 * public["n_embd"],
        positions="learned", norm="layernorm", norm_eps=public.get("layer_norm_epsilon", 1e-5), mlp="gelu",
        bias="all", tied=public.get("tie_word_embeddings", True),
    )  # fmt: skip


def to_public(config: decoder.Config) -> dict[str, Any]:
    """The config.json of a Config."""
    return {
        "architectures": [TYPES["gpt2"]], "model_type": "gpt2", "vocab_size": config.vocab,
        "tie_word_embeddings": config.tied, "torch_dtype": "float32",
        "n_positions": config.context, "n_embd": config.width, "n_layer": config.layers, "n_head": config.heads,
        "n_inner": config.mlp_width, "activation_function": "gelu_new", "layer_norm_epsilon": config.norm_eps,
        "resid_pdrop": config.dropout, "embd_pdrop": config.dropout, "attn_pdrop": 0.0,
    }  # fmt: skip


def expresses(config: Any) -> bool:
    """Whether a Config describes a GPT-2."""
    if not isinstance(config, decoder.Config):
        return False
    looks = (config.positions, config.norm, config.mlp, config.bias)
    plain = config.window is None and not config.qk_norm and config.attention is None
    square = config.kv_heads == config.heads and config.head_width == config.width // config.heads
    return looks == ("learned", "layernorm", "gelu", "all") and plain and square


def links(config: decoder.Config) -> Iterator[Link]:
    """All tensors."""
    tied = ("lm_head.weight",) if config.tied else ()
    yield Link("transformer.wte.weight", ("embedding.weight",), copies=tied)
    yield Link("transformer.wpe.weight", ("position.weight",))
    for i in range(config.layers):
        public, ours = f"transformer.h.{i}", f"blocks.{i}"
        for part in ("weight", "bias"):
            turned = part == "weight"
            joined = tuple(f"{ours}.attn.{letter}.{part}" for letter in "qkv")
            yield Link(f"{public}.ln_1.{part}", (f"{ours}.attn_norm.{part}",))
            yield Link(f"{public}.attn.c_attn.{part}", joined, turned)
            yield Link(f"{public}.attn.c_proj.{part}", (f"{ours}.attn.out.{part}",), turned)
            yield Link(f"{public}.ln_2.{part}", (f"{ours}.mlp_norm.{part}",))
            yield Link(f"{public}.mlp.c_fc.{part}", (f"{ours}.mlp.up.{part}",), turned)
            yield Link(f"{public}.mlp.c_proj.{part}", (f"{ours}.mlp.down.{part}",), turned)
    yield Link("transformer.ln_f.weight", ("norm.weight",))
    yield Link("transformer.ln_f.bias", ("norm.bias",))
    if not config.tied:
        yield Link("lm_head.weight", ("output.weight",))
