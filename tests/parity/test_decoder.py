"""The decoder against `transformers`: same weights, same logits, both directions, far positions, layer by layer."""

from __future__ import annotations

import pytest
import torch
import transformers

from lmcraft.models import families, weights

COMMON = {"vocab_size": 97, "tie_word_embeddings": False}
LLAMA = COMMON | {
    "hidden_size": 48, "intermediate_size": 112, "num_hidden_layers": 3, "num_attention_heads": 6,
    "num_key_value_heads": 2, "max_position_embeddings": 512, "rms_norm_eps": 1e-6,
}  # fmt: skip
CONFIGS = {
    "gpt2": lambda: transformers.GPT2Config(
        **(COMMON | {"tie_word_embeddings": True}), n_positions=512, n_embd=48, n_layer=3, n_head=6,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    ),
    "llama": lambda: transformers.LlamaConfig(**LLAMA, rope_parameters={"rope_type": "default", "rope_theta": 5000.0}),
    "llama-tied": lambda: transformers.LlamaConfig(**(LLAMA | {"tie_word_embeddings": True})),
    "llama-wide-heads": lambda: transformers.LlamaConfig(**LLAMA, head_dim=16),
    "mistral": lambda: transformers.MistralConfig(**LLAMA, sliding_window=7),
    "mistral-no-window": lambda: transformers.MistralConfig(**LLAMA, sliding_window=None),
    "qwen2": lambda: transformers.Qwen2Config(**LLAMA),
    "qwen3": lambda: transformers.Qwen3Config(**LLAMA, head_dim=16),
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
    """Largest difference after each block, for the message of a failing test."""
    seen: list[torch.Tensor] = []
    hooks = [b.register_forward_hook(lambda m, i, o: seen.append(o)) for b in ours.blocks]
    ours(tokens_BT)
    for hook in hooks:
        hook.remove()
    hidden = theirs(tokens_BT, output_hidden_states=True).hidden_states
    lines = [
        f"block {i}: {(a - b).abs().max():.2e}" for i, (a, b) in enumerate(zip(seen, hidden[1:], strict=True))
    ]
    return "\n".join(lines)


@pytest.mark.parametrize("name", CONFIGS)
def test_logits_equal_transformers(name, tmp_path):
    """A difference would mean that a public model says something else here than everywhere else."""
    theirs = reference(name)
    theirs.save_pretrained(tmp_path)
    ours = weights.load(tmp_path)
    tokens_BT = torch.randint(0, 97, (2, 400), generator=torch.Generator().manual_seed(1))
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
    assert families.family_of(ours.config) == name.split("-")[0] or name == "mistral-no-window"
    tokens_BT = torch.arange(90)[None]
    with torch.no_grad():
        assert (theirs(tokens_BT).logits - back.eval()(tokens_BT).logits).abs().max() < 1e-5


def test_cached_equals_recomputed_at_long_positions(tmp_path):
    """A difference would mean that chatting drifts from what training computed."""
    reference("mistral").save_pretrained(tmp_path)
    ours = weights.load(tmp_path)
    tokens_BT = torch.randint(0, 97, (3, 300), generator=torch.Generator().manual_seed(2))
    memory = ours.start(3, 300)
    with torch.no_grad():
        full = ours.head(ours(tokens_BT))
        pieces = [ours.head(ours(part, None, memory)) for part in tokens_BT.split([200, 1, 1, 50, 48], dim=1)]
    assert (torch.cat(pieces, dim=1) - full).abs().max() < 1e-4
