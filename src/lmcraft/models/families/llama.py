"""Llama and its kin: Mistral, Qwen2, Qwen3, SmolLM3 (SmolLM and SmolLM2 are Llamas).

1. They share the names of their tensors and differ in biases, windows and norms of queries and keys.
2. Qwen's windows begin at layer `max_window_layers`; `layer_types` says it for each layer and wins.
3. SmolLM3 leaves rotary positions out of some layers (`no_rope_layers`, where 0 means none).

Proved by tests/parity/test_decoder.py and tests/unit/models/test_families.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .. import decoder
from . import rotary
from .family import Link, refusal, require

TYPES = {
    "llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM", "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM", "smollm3": "SmolLM3ForCausalLM",
}  # fmt: skip
PREFIXES = {"": "model."}
LEFT_OUT = {r"(model\.)?(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq": "rotary frequencies, as a buffer"}
BIAS = {(False, False): "none", (True, False): "attention", (False, True): "mlp", (True, True): "all"}
FULL, SLIDING = "full_attention", "sliding_attention"


def from_public(public: dict[str, Any], where: str) -> decoder.Config:
    """Our Config of a config.json."""
    family = public["model_type"]
    require(public, where, hidden_act=("silu", "swish"))
    bias = BIAS[bool(public.get("attention_bias")), bool(public.get("mlp_bias"))]
    if family == "qwen2":
        bias = "qkv"  # whatever the file says: that is what the class does
    elif family in ("mistral", "qwen3"):
        require(public, where, mlp_bias=(False, None))
    if family == "mistral":
        require(public, where, attention_bias=(False, None))
    window, attention = _layers(public, where)
    bases = {"smollm3": 2000000.0}
    return decoder.Config(
        vocab=public["vocab_size"], layers=public["num_hidden_layers"], width=public["hidden_size"],
        heads=public["num_attention_heads"],
        kv_heads=public.get("num_key_value_heads") or public["num_attention_heads"],
        head_width=public.get("head_dim"), mlp_width=public["intermediate_size"], norm_eps=public["rms_norm_eps"],
        window=window, attention=attention, bias=bias, qk_norm=family == "qwen3",
        tied=public.get("tie_word_embeddings", family == "smollm3"),
        **rotary.read(public, where, bases.get(family, 10000.0)),
    )  # fmt: skip


def _layers(public: dict[str, Any], where: str) -> tuple[int | None, decoder.Attending | None]:
    """The window, and what is particular to single layers."""
    family, layers = public["model_type"], public["num_hidden_layers"]
    window = public.get("sliding_window")
    kinds = public.get("layer_types")
    if family in ("llama", "mistral"):  # they know nothing of layer_types
        expected = SLIDING if family == "mistral" and window is not None else FULL
        if kinds is not None and set(kinds) - {expected}:
            raise refusal(f"layer_types of {family}", where, "all of its layers are of one kind")
        return (window if family == "mistral" else None), None
    if not public.get("use_sliding_window"):
        window = None
    without = _without_rotary(public) if family == "smollm3" else ()
    if kinds is None and family == "smollm3":
        kinds = [SLIDING if i in without else FULL for i in range(layers)]
    elif kinds is None:
        kinds = [SLIDING if i >= public.get("max_window_layers", 28) else FULL for i in range(layers)]
    if len(kinds) != layers or set(kinds) - {FULL, SLIDING}:
        raise refusal(f"layer_types = {kinds}", where, f"one of {FULL} and {SLIDING} is read for each layer")
    if window is None or SLIDING not in kinds:
        window, kinds = None, [SLIDING] * layers
    full = tuple(i for i, kind in enumerate(kinds) if kind == FULL)
    if not full and not without:
        return window, None
    return window, decoder.Attending(full_layers=full, no_rope_layers=without)


def _without_rotary(public: dict[str, Any]) -> tuple[int, ...]:
    every, layers = public.get("no_rope_layer_interval", 4), public["num_hidden_layers"]
    turned = public.get("no_rope_layers") or [int((i + 1) % every != 0) for i in range(layers)]
    return tuple(i for i in range(layers) if not turned[i])


def _type(config: Any) -> str | None:
    """The kin that a Config describes."""
    if not isinstance(config, decoder.Config) or not rotary.expressible(config.rope, config.context):
        return None
    if (config.positions, config.norm, config.mlp) != ("rotary", "rmsnorm", "swiglu"):
        return None
    single = config.attention or decoder.Attending()
    if single.score_width is not None or single.local_rope_base is not None:
        return None
    square = config.head_width == config.width // config.heads
    if single.no_rope_layers:
        alike = config.bias in BIAS.values() and square and not config.qk_norm
        return "smollm3" if alike else None
    if config.qk_norm:
        return "qwen3" if config.bias in ("none", "attention") else None
    if config.bias == "qkv":
        return "qwen2" if square else None
    if single.full_layers:
        return None
    if config.window is not None:
        return "mistral" if config.bias == "none" else None
    return "llama"


def expresses(config: Any) -> bool:
    """Whether a Config describes one of them."""
    return _type(config) is not None


def to_public(config: decoder.Config) -> dict[str, Any]:
    """The config.json of a Config."""
    family = _type(config)
    assert family is not None
    public = {
        "architectures": [TYPES[family]], "model_type": family, "vocab_size": config.vocab,
        "tie_word_embeddings": config.tied, "torch_dtype": "float32",
        "hidden_size": config.width, "intermediate_size": config.mlp_width, "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads, "num_key_value_heads": config.kv_heads, "head_dim": config.head_width,
        "hidden_act": "silu", "rms_norm_eps": config.norm_eps, "attention_dropout": 0.0,
        "attention_bias": config.bias in ("attention", "all"), "mlp_bias": config.bias in ("mlp", "all"),
        **rotary.write(config.rope_base, config.rope, config.context),
    }  # fmt: skip
    if family == "mistral":
        public["sliding_window"] = config.window
    if family in ("qwen2", "qwen3", "smollm3"):
        single = config.attention or decoder.Attending()
        kinds = [
            FULL if config.window is None or i in single.full_layers else SLIDING
            for i in range(config.layers)
        ]
        public |= {
            "use_sliding_window": config.window is not None,
            "sliding_window": config.window,
            "layer_types": kinds,
        }
    if family == "smollm3":
        public["pad_token_id"] = None  # or the class reserves a row of its own large vocabulary
        public["no_rope_layers"] = [int(i not in single.no_rope_layers) for i in range(config.layers)]
    return public


def links(config: decoder.Config) -> Iterator[Link]:
    """All tensors."""
    tied = ("lm_head.weight",) if config.tied else ()
    yield Link("model.embed_tokens.weight", ("embedding.weight",), copies=tied)
    for i in range(config.layers):
        public, ours = f"model.layers.{i}", f"blocks.{i}"
        yield Link(f"{public}.input_layernorm.weight", (f"{ours}.attn_norm.weight",))
        yield Link(f"{public}.post_attention_layernorm.weight", (f"{ours}.mlp_norm.weight",))
        yield from projections(config, public, ours)
    yield Link("model.norm.weight", ("norm.weight",))
    if not config.tied:
        yield Link("lm_head.weight", ("output.weight",))


def projections(config: decoder.Config, public: str, ours: str) -> Iterator[Link]:
    """The linear maps of one layer and the norms of its queries and keys."""
    for name, our, biased in (
        ("self_attn.q_proj", "attn.q", config.bias in ("qkv", "attention", "all")),
        ("self_attn.k_proj", "attn.k", config.bias in ("qkv", "attention", "all")),
        ("self_attn.v_proj", "attn.v", config.bias in ("qkv", "attention", "all")),
        ("self_attn.o_proj", "attn.out", config.bias in ("attention", "all")),
        ("mlp.gate_proj", "mlp.gate", config.bias in ("mlp", "all")),
        ("mlp.up_proj", "mlp.up", config.bias in ("mlp", "all")),
        ("mlp.down_proj", "mlp.down", config.bias in ("mlp", "all")),
    ):
        yield Link(f"{public}.{name}.weight", (f"{ours}.{our}.weight",))
        if biased:
            yield Link(f"{public}.{name}.bias", (f"{ours}.{our}.bias",))
    if config.qk_norm:
        for letter in "qk":
            yield Link(f"{public}.self_attn.{letter}_norm.weight", (f"{ours}.attn.{letter}_norm.weight",))
