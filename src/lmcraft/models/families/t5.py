"""T5: relative positions, RMS norms before each branch, no biases, unscaled scores; v1.1 has a gated MLP.

Its attention dropout and the dropout inside its MLP have no counterpart; they act in training only.

Proved by tests/parity/test_encdec_families.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .. import encdec
from .family import Link, require

TYPES = {"t5": "T5ForConditionalGeneration"}
PREFIXES: dict[str, str] = {}
LEFT_OUT: dict[str, str] = {}
MLPS = {"relu": "relu", "gated-gelu": "geglu", "gated-silu": "swiglu"}
CONTEXT = 512  # what T5 was trained on where its config.json does not say; nothing breaks beyond


def from_public(public: dict[str, Any], where: str) -> encdec.Config:
    """Our Config of a config.json."""
    require(
        public, where, feed_forward_proj=tuple(MLPS), relative_attention_num_buckets=(encdec.BUCKETS,),
        relative_attention_max_distance=(encdec.FARTHEST,),
    )  # fmt: skip
    tied = public.get("tie_word_embeddings", True)
    return encdec.Config(
        vocab=public["vocab_size"], context=public.get("n_positions", CONTEXT), width=public["d_model"],
        layers=public.get("num_decoder_layers") or public["num_layers"], encoder_layers=public["num_layers"],
        heads=public["num_heads"], head_width=public["d_kv"], mlp_width=public["d_ff"], positions="relative",
        norm="rmsnorm", norm_eps=public.get("layer_norm_epsilon", 1e-6), placement="pre",
        mlp=MLPS[public.get("feed_forward_proj", "relu")], bias=False, embedding="plain", tied=tied,
        head_scaled=public.get("scale_decoder_outputs", tied), dropout=public.get("dropout_rate", 0.1),
        start_id=public.get("decoder_start_token_id", public.get("pad_token_id", 0)),
    )  # fmt: skip


def to_public(config: encdec.Config) -> dict[str, Any]:
    """The config.json of a Config."""
    projections = {ours: public for public, ours in MLPS.items()}
    return {
        "architectures": [TYPES["t5"]], "model_type": "t5", "vocab_size": config.vocab, "n_positions": config.context,
        "d_model": config.width, "d_kv": config.head_width, "d_ff": config.mlp_width,
        "num_layers": config.encoder_layers, "num_decoder_layers": config.layers, "num_heads": config.heads,
        "relative_attention_num_buckets": encdec.BUCKETS, "relative_attention_max_distance": encdec.FARTHEST,
        "layer_norm_epsilon": config.norm_eps, "feed_forward_proj": projections[config.mlp],
        "tie_word_embeddings": config.tied, "scale_decoder_outputs": config.head_scaled,
        "dropout_rate": config.dropout, "decoder_start_token_id": config.start_id, "is_encoder_decoder": True,
        "torch_dtype": "float32",
    }  # fmt: skip


def expresses(config: Any) -> bool:
    """Whether a Config describes a T5."""
    if not isinstance(config, encdec.Config):
        return False
    looks = (config.positions, config.norm, config.placement, config.bias, config.embedding)
    # Programs take an untied head for unscaled and a tied one for scaled, whatever else config.json says.
    usual = config.head_scaled == config.tied and config.start_id is not None and not config.source_bos
    plain = config.mlp in MLPS.values() and not config.output_bias
    return looks == ("relative", "rmsnorm", "pre", False, "plain") and plain and usual


def links(config: encdec.Config) -> Iterator[Link]:
    """All tensors."""
    shared = ["encoder.embed_tokens.weight", "decoder.embed_tokens.weight"]
    if config.tied:
        shared.append("lm_head.weight")
    yield Link("shared.weight", ("embedding.weight",), copies=tuple(shared))
    for side, layers in (("encoder", config.encoder_layers or config.layers), ("decoder", config.layers)):
        first = f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        yield Link(first, (f"{side}.relative.weight",))
        for i in range(layers):
            yield from _block(config, f"{side}.block.{i}.layer", f"{side}.blocks.{i}", side == "decoder")
        yield Link(f"{side}.final_layer_norm.weight", (f"{side}.norm.weight",))
    if not config.tied:
        yield Link("lm_head.weight", ("output.weight",))


def _block(config: encdec.Config, public: str, ours: str, cross: bool) -> Iterator[Link]:
    parts = [("0", "SelfAttention", "attn"), *([("1", "EncDecAttention", "cross")] if cross else [])]
    for place, theirs, mine in parts:
        yield Link(f"{public}.{place}.layer_norm.weight", (f"{ours}.{mine}_norm.weight",))
        for letter, name in (("q", "q"), ("k", "k"), ("v", "v"), ("o", "out")):
            yield Link(f"{public}.{place}.{theirs}.{letter}.weight", (f"{ours}.{mine}.{name}.weight",))
    last = f"{public}.{len(parts)}"
    yield Link(f"{last}.layer_norm.weight", (f"{ours}.mlp_norm.weight",))
    gated = config.mlp != "relu"
    for theirs, mine in (("wi_0", "gate"), ("wi_1", "up")) if gated else (("wi", "up"),):
        yield Link(f"{last}.DenseReluDense.{theirs}.weight", (f"{ours}.mlp.{mine}.weight",))
    yield Link(f"{last}.DenseReluDense.wo.weight", (f"{ours}.mlp.down.weight",))
