"""BART and Marian: post-norm encoder-decoders with biases; BART learns positions, Marian has sinusoids in halves.

Dropout of attention weights and inside the MLP has no counterpart; it acts in training only.

Proved by tests/parity/test_encdec_families.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .. import encdec
from .family import Link, refusal, require

TYPES = {"bart": "BartForConditionalGeneration", "marian": "MarianMTModel"}
PREFIXES = {"": "model."}
LEFT_OUT = {
    r"(model\.)?(encoder|decoder)\.embed_positions\.weight": "sinusoids, which follow from the config"
}
MLPS = {"gelu": "gelu_exact", "gelu_new": "gelu", "relu": "relu", "swish": "silu", "silu": "silu"}
SKIPPED = 2  # BART's table of positions begins at row 2, where its first version counted from the padding id
START = {"bart": 2, "marian": 58100}


def from_public(public: dict[str, Any], where: str) -> encdec.Config:
    """Our Config of a config.json."""
    family = public["model_type"]
    require(
        public, where, activation_function=tuple(MLPS), normalize_before=(False,), add_final_layer_norm=(False,),
        share_encoder_decoder_embeddings=(True,), decoder_vocab_size=(None, public["vocab_size"]),
        static_position_embeddings=(family == "marian",), add_bias_logits=(False,),
    )  # fmt: skip
    for key in ("ffn_dim", "attention_heads"):
        if public[f"encoder_{key}"] != public[f"decoder_{key}"]:
            raise refusal(
                f"decoder_{key} = {public[f'decoder_{key}']!r}", where, "both sides have one size here"
            )
    embedding = "scaled" if public.get("scale_embedding", False) else "plain"
    if family == "bart":
        embedding = "scaled_normed" if embedding == "scaled" else "normed"
    return encdec.Config(
        vocab=public["vocab_size"], context=public["max_position_embeddings"], width=public["d_model"],
        layers=public["decoder_layers"], encoder_layers=public["encoder_layers"],
        heads=public["decoder_attention_heads"], mlp_width=public["decoder_ffn_dim"],
        positions="learned" if family == "bart" else "sinusoidal_halves", placement="post",
        mlp=MLPS[public.get("activation_function", "gelu")], embedding=embedding, output_bias=True,
        tied=public.get("tie_word_embeddings", True), dropout=public.get("dropout", 0.1), source_bos=family == "bart",
        start_id=public.get("decoder_start_token_id", START[family]),
    )  # fmt: skip


def to_public(config: encdec.Config) -> dict[str, Any]:
    """The config.json of a Config."""
    family = _family(config)
    activations = {"gelu_exact": "gelu", "gelu": "gelu_new", "relu": "relu", "silu": "swish"}
    sides: dict[str, Any] = {}
    for side, layers in (("encoder", config.encoder_layers), ("decoder", config.layers)):
        sides |= {
            f"{side}_layers": layers, f"{side}_attention_heads": config.heads, f"{side}_ffn_dim": config.mlp_width,
        }  # fmt: skip
    return {
        "architectures": [TYPES[family]], "model_type": family, "vocab_size": config.vocab, "d_model": config.width,
        "max_position_embeddings": config.context, "activation_function": activations[config.mlp], **sides,
        "scale_embedding": config.embedding.startswith("scaled"), "tie_word_embeddings": config.tied,
        "dropout": config.dropout, "attention_dropout": 0.0, "activation_dropout": 0.0,
        "decoder_start_token_id": config.start_id, "pad_token_id": config.start_id if family == "marian" else 1,
        "is_encoder_decoder": True, "torch_dtype": "float32",
    }  # fmt: skip


def _family(config: encdec.Config) -> str:
    return "bart" if config.positions == "learned" else "marian"


def expresses(config: Any) -> bool:
    """Whether a Config describes a BART or a Marian."""
    if not isinstance(config, encdec.Config):
        return False
    looks = (config.positions, "normed" in config.embedding, config.source_bos)
    plain = config.head_width == config.width // config.heads and config.bias and config.output_bias
    usual = config.norm == "layernorm" and config.norm_eps == 1e-5 and config.placement == "post"
    known = config.mlp in MLPS.values() and not config.head_scaled and config.start_id is not None
    return (
        looks in (("learned", True, True), ("sinusoidal_halves", False, False))
        and plain
        and usual
        and known
        and config.tied
    )


def links(config: encdec.Config) -> Iterator[Link]:
    """All tensors."""
    shared = ["model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight"]
    if config.tied:
        shared.append("lm_head.weight")
    yield Link("model.shared.weight", ("embedding.weight",), copies=tuple(shared))
    for side, layers in (("encoder", config.encoder_layers or config.layers), ("decoder", config.layers)):
        if _family(config) == "bart":
            places = f"model.{side}.embed_positions.weight"
            yield Link(places, (f"{side}.position.weight",), lead=SKIPPED)
            for part in ("weight", "bias"):
                yield Link(f"model.{side}.layernorm_embedding.{part}", (f"{side}.embedding_norm.{part}",))
        for i in range(layers):
            yield from _block(f"model.{side}.layers.{i}", f"{side}.blocks.{i}", side == "decoder")
    yield Link("final_logits_bias", ("output.bias",), as_row=True)
    if not config.tied:
        yield Link("lm_head.weight", ("output.weight",))


def _block(public: str, ours: str, cross: bool) -> Iterator[Link]:
    for part in ("weight", "bias"):
        for theirs, mine in (("self_attn", "attn"), *([("encoder_attn", "cross")] if cross else [])):
            yield Link(f"{public}.{theirs}_layer_norm.{part}", (f"{ours}.{mine}_norm.{part}",))
            for name in ("q", "k", "v", "out"):
                yield Link(f"{public}.{theirs}.{name}_proj.{part}", (f"{ours}.{mine}.{name}.{part}",))
        yield Link(f"{public}.fc1.{part}", (f"{ours}.mlp.up.{part}",))
        yield Link(f"{public}.fc2.{part}", (f"{ours}.mlp.down.{part}",))
        yield Link(f"{public}.final_layer_norm.{part}", (f"{ours}.mlp_norm.{part}",))
