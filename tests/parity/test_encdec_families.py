"""Encoder-decoder families against `transformers`: same weights, same logits, both directions, far positions."""

from __future__ import annotations

import json

import pytest
import torch
import transformers

from lmcraft.layers.source import Source
from lmcraft.models import weights

T5 = {
    "vocab_size": 97, "d_model": 48, "d_kv": 16, "d_ff": 80, "num_layers": 3, "num_decoder_layers": 2, "num_heads": 4,
    "dropout_rate": 0.0, "decoder_start_token_id": 0,
}  # fmt: skip
BART = {
    "vocab_size": 97, "d_model": 48, "encoder_layers": 3, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 80, "decoder_ffn_dim": 80, "max_position_embeddings": 320,
    "dropout": 0.0, "decoder_start_token_id": 2, "pad_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
CONFIGS = {
    "t5": lambda: transformers.T5Config(**T5),
    "t5-gated": lambda: transformers.T5Config(**T5, feed_forward_proj="gated-gelu"),
    "bart": lambda: transformers.BartConfig(**BART),
    "bart-scaled": lambda: transformers.BartConfig(**BART, scale_embedding=True, activation_function="relu"),
    "marian": lambda: transformers.MarianConfig(**BART, scale_embedding=True, activation_function="swish"),
    "marian-unscaled": lambda: transformers.MarianConfig(**BART, scale_embedding=False),
}  # fmt: skip


def reference(name: str) -> transformers.PreTrainedModel:
    """A tiny random model with every parameter away from its initial constant; sinusoids stay."""
    torch.manual_seed(0)
    config = CONFIGS[name]()
    config._attn_implementation = "eager"
    model = transformers.AutoModelForSeq2SeqLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.1)
        if hasattr(model, "final_logits_bias"):
            model.final_logits_bias.normal_()
    return model


def inputs(length: int = 300) -> tuple[torch.Tensor, Source]:
    """Long targets, sources with padding."""
    draw = torch.Generator().manual_seed(1)
    tokens_BT = torch.randint(3, 97, (2, length), generator=draw)
    source_BS = torch.randint(3, 97, (2, 250), generator=draw)
    segments_BS = torch.ones_like(source_BS)
    segments_BS[1, 90:] = 0
    return tokens_BT, Source(source_BS, segments_BS)


@torch.no_grad()
def theirs_of(model, tokens_BT, source) -> torch.Tensor:
    mask_BS = (source.segments_BS != 0).long()
    return model(input_ids=source.tokens_BS, attention_mask=mask_BS, decoder_input_ids=tokens_BT).logits


def layers_of(theirs, ours, tokens_BT, source) -> str:
    """Largest difference behind each block of both stacks, for the message of a failing test."""
    seen: list[torch.Tensor] = []
    blocks = [*ours.encoder.blocks, *ours.decoder.blocks]
    hooks = [b.register_forward_pre_hook(lambda m, i: seen.append(i[0])) for b in blocks]
    ours(tokens_BT, source=source)
    for hook in hooks:
        hook.remove()
    found = theirs(
        input_ids=source.tokens_BS, attention_mask=(source.segments_BS != 0).long(), decoder_input_ids=tokens_BT,
        output_hidden_states=True,
    )  # fmt: skip
    hidden = [*found.encoder_hidden_states[:-1], *found.decoder_hidden_states[:-1]]
    lines = [
        f"before block {i}: {(a - b).abs().max():.2e}"
        for i, (a, b) in enumerate(zip(seen, hidden, strict=True))
    ]
    return "\n".join(lines)


@pytest.mark.parametrize("name", CONFIGS)
def test_logits_equal_transformers(name, tmp_path):
    """A difference would mean that a public model translates otherwise here than everywhere else (trap 27)."""
    theirs = reference(name)
    theirs.save_pretrained(tmp_path)
    ours = weights.load(tmp_path)
    tokens_BT, source = inputs()
    with torch.no_grad():
        expected = theirs_of(theirs, tokens_BT, source)
        found = ours.head(ours(tokens_BT, source=source))
        worst = (expected - found).abs().max() / expected.abs().max()
        assert worst < 1e-5, layers_of(theirs, ours, tokens_BT, source)
        memory = ours.start(2, 300, source)
        parts = [ours.head(ours(part, None, memory)) for part in tokens_BT.split([290, 1, 1, 8], dim=1)]
        assert (torch.cat(parts, dim=1) - expected).abs().max() < 1e-5 * expected.abs().max()
    assert ours.config.start_id == theirs.config.decoder_start_token_id


@pytest.mark.parametrize("name", CONFIGS)
def test_saved_models_load_in_transformers(name, tmp_path):
    """A difference would mean that a model trained here cannot leave."""
    theirs = reference(name)
    theirs.save_pretrained(tmp_path / "public")
    ours = weights.load(tmp_path / "public")
    weights.save(ours, tmp_path / "ours")
    assert json.loads((tmp_path / "ours" / "config.json").read_text())["model_type"] == name.split("-")[0]
    back, report = transformers.AutoModelForSeq2SeqLM.from_pretrained(
        tmp_path / "ours", output_loading_info=True, attn_implementation="eager"
    )
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"]
    tokens_BT, source = inputs()
    wanted, found = theirs_of(theirs, tokens_BT, source), theirs_of(back.eval(), tokens_BT, source)
    assert (wanted - found).abs().max() < 1e-5 * wanted.abs().max()
    assert weights.load(tmp_path / "ours").config == ours.config


def test_a_separate_head_is_read(tmp_path):
    """A failure would mean that T5 v1.1 checkpoints speak with the wrong head."""
    theirs = reference("t5-gated")
    theirs.save_pretrained(tmp_path)
    tensors = {k: v for k, v in theirs.state_dict().items() if "embed_tokens" not in k}
    tensors["lm_head.weight"] = torch.randn(97, 48)
    from safetensors.torch import save_file

    save_file({k: v.clone().contiguous() for k, v in tensors.items()}, tmp_path / "model.safetensors")
    file = tmp_path / "config.json"
    public = json.loads(file.read_text())
    public.pop("scale_decoder_outputs")
    file.write_text(json.dumps(public | {"tie_word_embeddings": False}))
    ours = weights.load(tmp_path)
    assert not ours.config.tied and not ours.config.head_scaled
    assert torch.equal(ours.output.weight, tensors["lm_head.weight"])
    weights.save(ours, tmp_path / "again")
    assert weights.load(tmp_path / "again").config == ours.config
