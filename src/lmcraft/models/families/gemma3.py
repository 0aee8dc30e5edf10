"""Gemma 3, text: sandwich norms, GeGLU, layers with a window and their own rotary base between layers without.

1. All norms multiply with 1 + w, those of queries and keys too; embeddings are multiplied by sqrt(width). The public
   implementation rounds that root to the precision of the embedding, which is none in float32.
2. Rotary scaling holds for the layers without window only; the others turn by a base of their own, unstretched.
   `max_position_embeddings` counts the stretched length, where the other families count the trained one.
3. Of a `gemma3` (text and images) its language model is read. The vision part is left out, and said to be.
4. The soft-caps on logits are Gemma 2's; Gemma 3 files set none, and others are refused.

Team, "Gemma 3 Technical Report", arXiv 2503.19786.
Proved by tests/parity/test_decoder.py and tests/unit/models/test_families.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .. import decoder
from . import rotary
from .family import Link, refusal, require

TYPES = {"gemma3_text": "Gemma3ForCausalLM", "gemma3": "Gemma3ForConditionalGeneration"}
PREFIXES = {
    "model.language_model.": "model.", "language_model.model.": "model.", "language_model.lm_head.": "lm_head.",
    "": "model.",
}  # fmt: skip
LEFT_OUT = {r"(model\.)?(vision_tower|multi_modal_projector)\..+": "the part that sees images"}
FULL, SLIDING = "full_attention", "sliding_attention"
# What the class fills in where a config.json is silent: the file of the 4B text model inside `gemma3` is nearly empty.
DEFAULTS = {
    "vocab_size": 262208, "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26,
    "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-6, "query_pre_attn_scalar": 256, "sliding_window": 4096, "tie_word_embeddings": True,
    "hidden_activation": "gelu_pytorch_tanh", "sliding_window_pattern": 6,
}  # fmt: skip
GLOBAL_BASE, LOCAL_BASE = 1000000.0, 10000.0


def from_public(public: dict[str, Any], where: str) -> decoder.Config:
    """Our Config of a config.json."""
    if public["model_type"] == "gemma3":
        outer = {k: public[k] for k in ("tie_word_embeddings",) if k in public}
        public = outer | (public.get("text_config") or {})
    public = DEFAULTS | {key: value for key, value in public.items() if value is not None}
    require(
        public, where, hidden_activation=("gelu_pytorch_tanh",), attn_logit_softcapping=(), final_logit_softcapping=(),
        use_bidirectional_attention=(False,),
    )  # fmt: skip
    layers = public["num_hidden_layers"]
    kinds = public.get("layer_types") or [
        SLIDING if (i + 1) % public["sliding_window_pattern"] else FULL for i in range(layers)
    ]
    if len(kinds) != layers or set(kinds) - {FULL, SLIDING}:
        raise refusal(f"layer_types = {kinds}", where, f"one of {FULL} and {SLIDING} is read for each layer")
    rope, local_base = _rotary(public, where)
    windowed = SLIDING in kinds
    full = tuple(i for i, kind in enumerate(kinds) if kind == FULL) if windowed else ()
    return decoder.Config(
        vocab=public["vocab_size"], layers=layers, width=public["hidden_size"], heads=public["num_attention_heads"],
        kv_heads=public["num_key_value_heads"], head_width=public["head_dim"], mlp_width=public["intermediate_size"],
        norm="sandwich", norm_eps=public["rms_norm_eps"], mlp="geglu", qk_norm=True,
        bias="attention" if public.get("attention_bias") else "none", tied=public["tie_word_embeddings"],
        window=public["sliding_window"] if windowed else None,
        attention=decoder.Attending(
            full_layers=full, local_rope_base=local_base if windowed else None,
            score_width=public["query_pre_attn_scalar"],
        ),
        **rope,
    )  # fmt: skip


def _rotary(public: dict[str, Any], where: str) -> tuple[dict[str, Any], float]:
    """Rotary settings of the layers without window, and the base of those with one."""
    given = public.get("rope_parameters") or {}
    if given and not given.keys() & {FULL, SLIDING}:
        raise refusal(
            "rope_parameters for all layers alike", where, f"Gemma 3 has them for {FULL} and {SLIDING}"
        )
    full = {"rope_theta": public.get("rope_theta", GLOBAL_BASE)} | (given.get(FULL) or {})
    full |= public.get("rope_scaling") or {}
    sliding = given.get(SLIDING) or {}
    if rotary.stretch(sliding, public, where) is not None:
        raise refusal("rotary scaling in layers with a window", where, "only the others are stretched")
    if full.get("truncate") is False:
        raise refusal("truncate = false", where, "the public class does not look at it for Gemma 3")
    local = sliding.get("rope_theta") or public.get("rope_local_base_freq", LOCAL_BASE)
    rest = {k: v for k, v in public.items() if k not in ("rope_parameters", "rope_scaling", "rope_theta")}
    read = rotary.read(rest | {"rope_parameters": full}, where)
    rope = read["rope"]
    if rope is not None and rope.kind == "linear":
        read["context"] = public["max_position_embeddings"]
        trained = max(1, int(read["context"] / rope.factor))
        read["rope"] = rope.model_copy(update={"original_context": trained})
    return read, local


def expresses(config: Any) -> bool:
    """Whether a Config describes a Gemma 3."""
    if not isinstance(config, decoder.Config) or config.norm != "sandwich":
        return False
    single = config.attention or decoder.Attending()
    alike = (config.positions, config.mlp, config.qk_norm) == ("rotary", "geglu", True)
    local = config.window is None or single.local_rope_base is not None
    return (
        alike
        and local
        and config.bias in ("none", "attention")
        and not single.no_rope_layers
        and _reach(config)
    )


def _reach(config: decoder.Config) -> bool:
    rope = config.rope
    if rope is not None and rope.kind == "linear":
        return rope.original_context == max(1, int(config.context / rope.factor))
    return rotary.expressible(rope, config.context) and (rope is None or rope.truncate)


def to_public(config: decoder.Config) -> dict[str, Any]:
    """The config.json of a Config."""
    single = config.attention or decoder.Attending()
    written = rotary.write(config.rope_base, config.rope, config.context)
    if config.rope is not None and config.rope.kind == "linear":
        written["max_position_embeddings"] = config.context
    width = config.head_width if single.score_width is None else single.score_width
    local = LOCAL_BASE if single.local_rope_base is None else single.local_rope_base
    return {
        "architectures": [TYPES["gemma3_text"]], "model_type": "gemma3_text", "vocab_size": config.vocab,
        "tie_word_embeddings": config.tied, "torch_dtype": "float32",
        "hidden_size": config.width, "intermediate_size": config.mlp_width, "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads, "num_key_value_heads": config.kv_heads, "head_dim": config.head_width,
        "hidden_activation": "gelu_pytorch_tanh", "rms_norm_eps": config.norm_eps, "attention_dropout": 0.0,
        "attention_bias": config.bias == "attention", "query_pre_attn_scalar": _whole(width),
        "sliding_window": config.window or DEFAULTS["sliding_window"],
        "layer_types": [
            FULL if config.window is None or i in single.full_layers else SLIDING for i in range(config.layers)
        ],
        "max_position_embeddings": written["max_position_embeddings"],
        "rope_parameters": {
            FULL: written["rope_parameters"], SLIDING: {"rope_type": "default", "rope_theta": local},
        },
    }  # fmt: skip


def _whole(number: float) -> float | int:
    """The public class takes whole numbers as such."""
    return int(number) if number == int(number) else number


def links(config: decoder.Config) -> Iterator[Link]:
    """All tensors."""
    yield Link(
        "model.embed_tokens.weight", ("embedding.weight",), copies=("lm_head.weight",) if config.tied else ()
    )
    for i in range(config.layers):
        public, ours = f"model.layers.{i}", f"blocks.{i}"
        for name, our in (
            ("input_layernorm", "attn_norm"), ("post_attention_layernorm", "attn_post_norm"),
            ("pre_feedforward_layernorm", "mlp_norm"), ("post_feedforward_layernorm", "mlp_post_norm"),
            ("self_attn.q_norm", "attn.q_norm"), ("self_attn.k_norm", "attn.k_norm"),
            *((f"self_attn.{letter}_proj", f"attn.{letter}") for letter in "qkv"), ("self_attn.o_proj", "attn.out"),
            *((f"mlp.{part}_proj", f"mlp.{part}") for part in ("gate", "up", "down")),
        ):  # fmt: skip
            yield Link(f"{public}.{name}.weight", (f"{ours}.{our}.weight",))
            if config.bias == "attention" and name.endswith("_proj") and name.startswith("self_attn"):
                yield Link(f"{public}.{name}.bias", (f"{ours}.{our}.bias",))
    yield Link("model.norm.weight", ("norm.weight",))
    if not config.tied:
        yield Link("lm_head.weight", ("output.weight",))
