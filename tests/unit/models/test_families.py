"""Public families: what is read, what is refused, and that writing and reading agree."""

from __future__ import annotations

import re

import pytest

from lmcraft.core.errors import UserError
from lmcraft.models import decoder, families, rnn

SIZE = {"vocab": 23, "layers": 4, "width": 32, "heads": 4, "context": 64}
LLAMA = {
    "model_type": "llama", "vocab_size": 23, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4,
    "num_attention_heads": 4, "max_position_embeddings": 64, "rms_norm_eps": 1e-6,
}  # fmt: skip
GPT2 = {"model_type": "gpt2", "vocab_size": 23, "n_embd": 32, "n_layer": 1, "n_head": 4}
GEMMA = LLAMA | {"model_type": "gemma3_text", "head_dim": 8, "num_key_value_heads": 1}
SANDWICH = {"norm": "sandwich", "mlp": "geglu", "qk_norm": True}
LOCAL = {"local_rope_base": 100.0}


def of_type(model_type: str, **settings) -> dict:
    return LLAMA | {"model_type": model_type} | settings


def test_every_family_brings_all_of_it():
    """A failure would mean that a file in the folder is a family by halves, found out when somebody needs it."""
    types = [name for family in families.every() for name in family.TYPES]
    assert len(types) == len(set(types)) and {
        "gpt2",
        "llama",
        "mistral",
        "qwen2",
        "qwen3",
        "gemma3_text",
    } <= {*types}
    for family in families.every():
        for part in ("from_public", "to_public", "expresses", "links"):
            assert callable(getattr(family, part)), family
        for patterns in (family.LEFT_OUT, family.PREFIXES):
            assert all(re.compile(pattern) for pattern in patterns)


EXPRESSED = {
    "llama": [
        {}, {"kv_heads": 2, "tied": False}, {"bias": "all"}, {"bias": "attention"}, {"bias": "mlp"}, {"head_width": 16},
        {"rope": {"kind": "linear", "factor": 4}},
        {"rope": {"kind": "dynamic", "factor": 2.5, "original_context": 25}, "context": 62},
        {"rope": {"kind": "yarn", "factor": 4}}, {"rope": {"kind": "yarn", "factor": 2, "original_context": 8}},
        {"rope": {"kind": "yarn", "factor": 4, "truncate": False, "beta_slow": 0.5, "attention_factor": 1.0}},
        {"rope": {"kind": "llama3", "factor": 8, "original_context": 16, "low_freq_factor": 2}},
    ],
    "mistral": [{"window": 5}],
    "qwen2": [
        {"bias": "qkv"}, {"bias": "qkv", "window": 5},
        {"bias": "qkv", "window": 5, "attention": {"full_layers": [0]}},
    ],
    "qwen3": [
        {"qk_norm": True},
        {"qk_norm": True, "window": 5, "attention": {"full_layers": [0, 2]}, "bias": "attention"},
    ],
    "smollm3": [
        {"attention": {"no_rope_layers": [3]}},
        {"attention": {"no_rope_layers": [1], "full_layers": [0]}, "window": 6},
    ],
    "gemma3_text": [
        SANDWICH | {"window": 5, "attention": {"full_layers": [3], "score_width": 24} | LOCAL},
        SANDWICH | {"attention": {"score_width": 8}},
        SANDWICH | {"attention": {"score_width": 2.5}, "bias": "attention"},
        SANDWICH | {"window": 5, "attention": LOCAL | {"score_width": 8}, "rope": {"kind": "linear", "factor": 3}},
        SANDWICH | {"attention": {"score_width": 8}, "rope": {"kind": "yarn", "factor": 4}, "tied": False},
    ],
    "gpt2": [{"positions": "learned", "norm": "layernorm", "mlp": "gelu", "bias": "all"}],
}  # fmt: skip


@pytest.mark.parametrize(
    "name,settings", [(name, one) for name, many in EXPRESSED.items() for one in many], ids=str
)
def test_what_is_written_is_read_as_the_same(name, settings):
    """A difference would mean that a model changes by being saved."""
    config = decoder.Config(**SIZE | settings)
    assert [family for family in families.every() if family.expresses(config)] == [families.of(config)]
    public = families.of(config).to_public(config)
    assert public["model_type"] == name
    family, again = families.read(public, "config.json")
    assert family is families.of(config) and again == config


@pytest.mark.parametrize(
    "settings",
    [
        {"positions": "sinusoidal"}, {"mlp": "geglu"}, {"norm": "sandwich"}, SANDWICH | {"window": 5},
        {"qk_norm": True, "bias": "mlp"}, {"bias": "qkv", "head_width": 16}, {"window": 5, "bias": "attention"},
        {"attention": {"score_width": 9}}, {"window": 5, "attention": {"full_layers": [0]}},
        {"rope": {"kind": "linear", "factor": 4, "original_context": 30}},
        {"rope": {"kind": "yarn", "factor": 4, "original_context": 60}},
        {"qk_norm": True, "attention": {"no_rope_layers": [0]}},
        {"positions": "learned", "norm": "layernorm", "mlp": "gelu", "bias": "all", "kv_heads": 2},
    ],
    ids=str,
)  # fmt: skip
def test_what_no_family_computes_is_claimed_by_none(settings):
    """A claim would mean that other programs load the saved model and compute something else."""
    assert families.of(decoder.Config(**SIZE | settings)) is None
    assert families.of(rnn.Config(vocab=23)) is None


REFUSED = [
    (LLAMA | {"model_type": "mamba"}, "known types"),
    (LLAMA | {"model_type": None}, "known types"),
    (LLAMA | {"quantization_config": {"quant_method": "gptq"}}, "quantized"),
    (LLAMA | {"hidden_act": "relu"}, "hidden_act"),
    (LLAMA | {"layer_types": ["sliding_attention"] * 4}, "layer_types"),
    (LLAMA | {"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
    (LLAMA | {"rope_scaling": {"type": "linear", "factor": 2, "partial_rotary_factor": 0.5}}, "partial_rotary"),
    (LLAMA | {"rope_scaling": {"type": "longrope", "factor": 2}}, "longrope"),
    (LLAMA | {"rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2]}}, "mrope_section"),
    (LLAMA | {"rope_scaling": {"rope_type": "dynamic", "factor": 2, "alpha": 1000}}, "alpha"),
    (of_type("mistral", attention_bias=True), "attention_bias"),
    (of_type("qwen3", mlp_bias=True), "mlp_bias"),
    (of_type("qwen2", use_sliding_window=True, sliding_window=4, layer_types=["chunked_attention"] * 4), "layer_types"),
    (of_type("qwen3", layer_types=["full_attention"] * 3), "layer_types"),
    (GPT2 | {"activation_function": "relu"}, "activation_function"),
    (GPT2 | {"scale_attn_by_inverse_layer_idx": True}, "inverse_layer"),
    (GPT2 | {"scale_attn_weights": False}, "scale_attn_weights"),
    (GEMMA | {"final_logit_softcapping": 30.0}, "final_logit_softcapping"),
    (GEMMA | {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping"),
    (GEMMA | {"use_bidirectional_attention": True}, "bidirectional"),
    (GEMMA | {"hidden_activation": "silu"}, "hidden_activation"),
    (GEMMA | {"layer_types": ["linear_attention"] * 4}, "layer_types"),
    (GEMMA | {"rope_parameters": {"rope_type": "linear", "factor": 2.0}}, "for all layers"),
    (GEMMA | {"rope_parameters": {"sliding_attention": {"rope_type": "linear", "factor": 2}}}, "with a window"),
]  # fmt: skip


@pytest.mark.parametrize("public,part", REFUSED, ids=[part for _, part in REFUSED])
def test_a_setting_without_counterpart_is_refused(public, part):
    """A failure would mean that a model is read as another one than it is, without a word."""
    with pytest.raises(UserError) as caught:
        families.read(public, "there/config.json")
    assert part in str(caught.value) and caught.value.where == "there/config.json"


@pytest.mark.parametrize(
    "old,new",
    [
        ({"rope_theta": 7.0}, {"rope_parameters": {"rope_type": "default", "rope_theta": 7.0}}),
        (
            {"rope_theta": 7.0, "rope_scaling": {"type": "linear", "factor": 2.0}},
            {"rope_parameters": {"rope_type": "linear", "rope_theta": 7.0, "factor": 2.0}},
        ),
        (
            {"rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}},
            {"rope_parameters": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}},
        ),
        ({"rope_scaling": None}, {}),
    ],
)
def test_both_spellings_of_rotary_settings_mean_the_same(old, new):
    """A difference would mean that older config.json files lose their scaling (trap 24)."""
    ours = families.read(LLAMA | old, "")[1]
    assert ours == families.read(LLAMA | new, "")[1]
    assert (ours.rope is not None) == ("rope_scaling" in old and old["rope_scaling"] is not None)


@pytest.mark.parametrize(
    "settings,context",
    [
        ({"rope_type": "linear", "factor": 4.0}, 256),
        ({"rope_type": "dynamic", "factor": 2.5}, 160),
        ({"rope_type": "yarn", "factor": 4.0}, 256),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}, 64),
        ({"rope_type": "yarn", "original_max_position_embeddings": 16}, 64),
        ({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 8}, 64),
    ],
)  # fmt: skip
def test_how_long_a_stretched_model_reads(settings, context):
    """A wrong number would cut texts off that the model can read, or read on where it cannot."""
    assert families.read(LLAMA | {"rope_parameters": settings}, "")[1].context == context


def test_the_language_model_inside_gemma3_is_read():
    """A failure would mean that the larger public Gemmas, whose file also tells of images, cannot be read."""
    text = {key: value for key, value in GEMMA.items() if key != "model_type"}
    old = {
        "sliding_window_pattern": 2,
        "rope_local_base_freq": 300.0,
        "rope_theta": 5e5,
        "rope_scaling": {"rope_type": "linear", "factor": 8.0},
    }
    family, config = families.read(
        {"model_type": "gemma3", "text_config": text | old, "vision_config": {}}, ""
    )
    assert config.attention.full_layers == (1, 3) and config.attention.local_rope_base == 300.0
    assert config.rope.kind == "linear" and config.rope_base == 5e5 and config.context == 64 and config.tied
    assert family.to_public(config)["model_type"] == "gemma3_text"
