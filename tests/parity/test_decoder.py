"""The decoder against `transformers`: same weights, same logits, both directions, far positions, layer by layer."""

from __future__ import annotations

import json

import pytest
import torch
import transformers

from lmcraft.models import decoder, weights

COMMON = {"vocab_size": 97, "tie_word_embeddings": False}
LLAMA = COMMON | {
    "hidden_size": 48, "intermediate_size": 112, "num_hidden_layers": 3, "num_attention_heads": 6,
    "num_key_value_heads": 2, "max_position_embeddings": 512, "rms_norm_eps": 1e-6,
}  # fmt: skip
WINDOWS = {"use_sliding_window": True, "sliding_window": 7}
GEMMA = LLAMA | {
    "head_dim": 16, "sliding_window": 9, "query_pre_attn_scalar": 24, "num_hidden_layers": 7,
    "max_position_embeddings": 64,
}  # fmt: skip
TRAINED = 64  # the scalings below stretch this four times
SCALINGS = {
    "linear": {"rope_type": "linear", "factor": 4.0},
    "dynamic": {"rope_type": "dynamic", "factor": 4.0},
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": TRAINED},
    "yarn-all": {
        "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": TRAINED, "beta_fast": 6.0,
        "beta_slow": 0.25, "attention_factor": 1.3, "truncate": False,
    },
    "yarn-mscale": {
        "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": TRAINED, "mscale": 0.7,
        "mscale_all_dim": 1.1,
    },
    "llama3": {
        "rope_type": "llama3", "factor": 4.0, "original_max_position_embeddings": TRAINED, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
    },
}  # fmt: skip


def scaled(kind: str, base: float = 5000.0) -> dict:
    """Settings of a Llama whose positions are stretched."""
    longest = TRAINED if kind in ("linear", "dynamic") else 4 * TRAINED
    return LLAMA | {
        "max_position_embeddings": longest,
        "rope_parameters": SCALINGS[kind] | {"rope_theta": base},
    }


def gemma(**settings) -> transformers.Gemma3TextConfig:
    return transformers.Gemma3TextConfig(**(GEMMA | settings))


CONFIGS = {
    "gpt2": lambda: transformers.GPT2Config(
        **(COMMON | {"tie_word_embeddings": True}), n_positions=512, n_embd=48, n_layer=3, n_head=6,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    ),
    "gpt2-untied": lambda: transformers.GPT2Config(**COMMON, n_positions=512, n_embd=48, n_layer=3, n_head=6),
    "llama": lambda: transformers.LlamaConfig(**LLAMA, rope_parameters={"rope_type": "default", "rope_theta": 5000.0}),
    "llama-tied": lambda: transformers.LlamaConfig(**(LLAMA | {"tie_word_embeddings": True})),
    "llama-wide-heads": lambda: transformers.LlamaConfig(**LLAMA, head_dim=16),
    "llama-biases": lambda: transformers.LlamaConfig(**LLAMA, attention_bias=True, mlp_bias=True),
    "llama-attention-bias": lambda: transformers.LlamaConfig(**LLAMA, attention_bias=True),
    **{f"llama-{kind}": lambda kind=kind: transformers.LlamaConfig(**scaled(kind)) for kind in SCALINGS},
    "mistral": lambda: transformers.MistralConfig(**LLAMA, sliding_window=7),
    "mistral-no-window": lambda: transformers.MistralConfig(**LLAMA, sliding_window=None),
    "mistral-yarn": lambda: transformers.MistralConfig(**scaled("yarn"), sliding_window=70),
    "qwen2": lambda: transformers.Qwen2Config(**LLAMA),
    "qwen2-yarn": lambda: transformers.Qwen2Config(**scaled("yarn", 1e6)),
    "qwen2-windows": lambda: transformers.Qwen2Config(**LLAMA, **WINDOWS, max_window_layers=1),
    "qwen3": lambda: transformers.Qwen3Config(**LLAMA, head_dim=16),
    "qwen3-windows": lambda: transformers.Qwen3Config(**LLAMA, **WINDOWS, max_window_layers=2, attention_bias=True),
    "qwen3-dynamic": lambda: transformers.Qwen3Config(**scaled("dynamic", 1e6), head_dim=16),
    "smollm3": lambda: transformers.SmolLM3Config(**LLAMA, no_rope_layer_interval=2, pad_token_id=None),
    "smollm3-windows": lambda: transformers.SmolLM3Config(
        **LLAMA, **WINDOWS, no_rope_layers=[1, 0, 1], pad_token_id=None
    ),
    "gemma3": lambda: gemma(tie_word_embeddings=True),
    "gemma3-untied": lambda: gemma(attention_bias=True, layer_types=["full_attention"] * 3 + ["sliding_attention"] * 4),
    "gemma3-full": lambda: gemma(layer_types=["full_attention"] * 7),
    **{
        f"gemma3-{kind}": lambda kind=kind: gemma(
            max_position_embeddings=TRAINED if kind == "dynamic" else 4 * TRAINED,
            rope_parameters={
                "full_attention": SCALINGS[kind] | {"rope_theta": 50000.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 2000.0},
            },
        )
        for kind in ("linear", "dynamic", "yarn", "llama3")
    },
}  # fmt: skip


def reference(name: str) -> transformers.PreTrainedModel:
    """A tiny random model of `transformers` with every parameter away from its initial constant."""
    torch.manual_seed(0)
    config = CONFIGS[name]()
    config._attn_implementation = "eager"
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def layers_of(theirs, ours, tokens_BT) -> str:
    """Largest difference after the embedding and after each block, for the message of a failing test."""
    seen: list[torch.Tensor] = []
    hooks = [b.register_forward_pre_hook(lambda m, i: seen.append(i[0])) for b in ours.blocks]
    hooks.append(ours.norm.register_forward_hook(lambda m, i, o: seen.append(o)))
    ours(tokens_BT)
    for hook in hooks:
        hook.remove()
    hidden = theirs(tokens_BT, output_hidden_states=True).hidden_states  # the last one is behind the norm
    names = ["embedding", *(f"block {i}" for i in range(len(ours.blocks) - 1)), "last block and norm"]
    return "\n".join(
        f"{name}: {(a - b).abs().max():.2e}" for name, a, b in zip(names, seen, hidden, strict=True)
    )


@pytest.mark.parametrize("name", CONFIGS)
def test_logits_equal_transformers(name, tmp_path):
    """A difference would mean that a public model says something else here than everywhere else."""
    theirs = reference(name)
    theirs.save_pretrained(tmp_path)
    ours = weights.load(tmp_path)
    tokens_BT = torch.randint(
        0, 97, (2, min(ours.max_length, 400)), generator=torch.Generator().manual_seed(1)
    )
    with torch.no_grad():
        expected, found = theirs(tokens_BT).logits, ours.head(ours(tokens_BT))
        difference = (expected - found).abs().max()
        assert difference < 1e-5 * expected.abs().max(), layers_of(theirs, ours, tokens_BT)


@pytest.mark.parametrize("name", CONFIGS)
def test_saved_models_load_in_transformers(name, tmp_path):
    """A difference would mean that a model trained here cannot leave."""
    theirs = reference(name)
    theirs.save_pretrained(tmp_path / "public")
    ours = weights.load(tmp_path / "public")
    weights.save(ours, tmp_path / "ours")
    back, report = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "ours", output_loading_info=True, attn_implementation="eager"
    )
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"]
    family = json.loads((tmp_path / "ours" / "config.json").read_text())["model_type"]
    expected = {"mistral-no-window": "llama"}.get(name, name.split("-")[0].replace("gemma3", "gemma3_text"))
    assert family == expected
    tokens_BT = torch.randint(
        0, 97, (1, min(ours.max_length, 256)), generator=torch.Generator().manual_seed(3)
    )
    with torch.no_grad():
        wanted, found = theirs(tokens_BT).logits, back.eval()(tokens_BT).logits
    assert (wanted - found).abs().max() < 1e-5 * wanted.abs().max()
    assert weights.load(tmp_path / "ours").config == ours.config


@pytest.mark.parametrize("kind", ["linear", "dynamic", "yarn", "llama3"])
def test_scaling_shows_at_far_positions(kind, tmp_path):
    """Equality would mean that the comparisons above are too short to notice a scaling that is ignored (trap 24)."""
    reference(f"llama-{kind}").save_pretrained(tmp_path)
    ours = weights.load(tmp_path)
    assert ours.max_length == 4 * TRAINED
    plain = decoder.build(ours.config.model_copy(update={"rope": None})).eval()
    plain.load_state_dict(ours.state_dict())
    tokens_BT = torch.randint(0, 97, (1, 4 * TRAINED), generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        difference = (ours.head(ours(tokens_BT)) - plain.head(plain(tokens_BT)))[:, -1].abs().max()
    assert difference > 0.01


@pytest.mark.parametrize(
    "name", ["mistral", "llama-yarn", "llama-llama3", "llama-linear", "gemma3-linear", "smollm3"]
)
def test_cached_equals_recomputed_at_long_positions(name, tmp_path):
    """A difference would mean that chatting drifts from what training computed."""
    reference(name).save_pretrained(tmp_path)
    ours = weights.load(tmp_path)
    tokens_BT = torch.randint(0, 97, (3, 250), generator=torch.Generator().manual_seed(2))
    memory = ours.start(3, 250)
    with torch.no_grad():
        full = ours.head(ours(tokens_BT))
        pieces = [ours.head(ours(part, None, memory)) for part in tokens_BT.split([150, 1, 1, 50, 48], dim=1)]
    assert (torch.cat(pieces, dim=1) - full).abs().max() < 1e-5 * full.abs().max()


def test_remembering_under_dynamic_scaling_equals_transformers_at_each_length(tmp_path):
    """A difference would mean that a text's next word depends on how the text was fed in."""
    theirs = reference("llama-dynamic")
    theirs.save_pretrained(tmp_path)
    ours = weights.load(tmp_path)
    tokens_BT = torch.randint(0, 97, (2, 150), generator=torch.Generator().manual_seed(5))
    memory = ours.start(2, 150)
    start = 0
    with torch.no_grad():
        for steps in (40, 1, 23, 1, 1, 2, 60, 1, 20, 1):
            found = ours.head(ours(tokens_BT[:, start : start + steps], None, memory))[:, -1]
            start += steps
            expected = theirs(tokens_BT[:, :start], use_cache=False).logits[:, -1]
            assert (found - expected).abs().max() < 1e-5 * expected.abs().max(), start
    assert start == 150 and memory.longest == 150


def test_the_language_model_of_a_gemma_with_images_is_read(tmp_path):
    """A difference would mean that the larger Gemmas speak otherwise here, or that a part is left out unsaid."""
    torch.manual_seed(0)
    vision = {
        "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "image_size": 28,
        "patch_size": 14,
    }  # fmt: skip
    config = transformers.Gemma3Config(
        text_config=gemma(tie_word_embeddings=True), vision_config=vision, mm_tokens_per_image=4, image_token_index=96,
        boi_token_index=95, eoi_token_index=94,
    )  # fmt: skip
    config._attn_implementation = "eager"
    theirs = transformers.Gemma3ForConditionalGeneration(config).eval()
    theirs.save_pretrained(tmp_path)
    ours, report = weights.load_reported(tmp_path)
    assert report.left_out and all("vision" in name or "multi_modal" in name for name in report.left_out)
    assert "the part that sees images" in str(report)
    tokens_BT = torch.randint(0, 90, (2, 60), generator=torch.Generator().manual_seed(6))
    with torch.no_grad():
        expected, found = theirs(tokens_BT).logits, ours.head(ours(tokens_BT))
    assert (expected - found).abs().max() < 1e-5 * expected.abs().max()
