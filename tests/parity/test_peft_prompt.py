"""Soft prompts against `peft`: the same prompt before the same model, and each reads what the other has written."""

from __future__ import annotations

import json

import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from lmcraft.adapt import peft_prompt, soft_prompt
from lmcraft.core.errors import UserError
from lmcraft.layers.source import Source
from lmcraft.models import weights

# peft 0.21 asks transformers 5.23 by a name that it no longer likes
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
CLOSE = {"rtol": 1e-5, "atol": 1e-5}
SIZES = {
    "vocab_size": 97, "hidden_size": 48, "intermediate_size": 112, "num_hidden_layers": 2, "num_attention_heads": 6,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "tie_word_embeddings": True,
}  # fmt: skip
MODELS = {
    "llama": lambda: transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES)),
    "gemma": lambda: transformers.Gemma3ForCausalLM(
        transformers.Gemma3TextConfig(**SIZES, head_dim=16, sliding_window=32)
    ),
    "t5": lambda: transformers.T5ForConditionalGeneration(
        transformers.T5Config(
            vocab_size=97, d_model=48, d_kv=16, d_ff=80, num_layers=2, num_heads=4, dropout_rate=0.0,
            decoder_start_token_id=0, feed_forward_proj="gated-gelu",
        )
    ),
}  # fmt: skip


@pytest.fixture(params=MODELS)
def pair(request, tmp_path):
    """Their model with a prompt of 5 vectors, and ours without one."""
    torch.manual_seed(0)
    theirs = MODELS[request.param]().eval()
    theirs.save_pretrained(tmp_path / "base")
    task = "SEQ_2_SEQ_LM" if request.param == "t5" else "CAUSAL_LM"
    wrapped = peft.get_peft_model(
        theirs, peft.PromptTuningConfig(task_type=task, num_virtual_tokens=5)
    ).eval()
    return wrapped, weights.load(tmp_path / "base"), tmp_path


def read(directory, model, name="p"):
    """Our model with the adapter in a directory of PEFT's."""
    config = json.loads((directory / "adapter_config.json").read_text())
    stored = load_file(directory / "adapter_model.safetensors")
    soft_prompt.apply(model, peft_prompt.entry(config, stored, None, str(directory)), name)
    found, rest = peft_prompt.tensors(stored, model, name, None, str(directory))
    assert not rest
    model.load_state_dict(found, strict=False)
    assert set(found) <= set(model.state_dict())
    return model


@torch.no_grad()
def logits_of(theirs, ours):
    """Logits for the same ids; ours with the memory in pieces too."""
    torch.manual_seed(1)
    ids, source = torch.randint(3, 97, (2, 9)), torch.randint(3, 97, (2, 7))
    if ours.reads_source:
        expected = theirs(input_ids=source, decoder_input_ids=ids).logits
        found = ours.head(ours(ids, source=Source.of(source)))
        memory = ours.start(2, 9, Source.of(source))
    else:
        expected = theirs(input_ids=ids).logits[:, -9:]
        found, memory = ours.head(ours(ids)), ours.start(2, 9)
    cached = torch.cat([ours.head(ours(part, None, memory)) for part in ids.split([4, 1, 4], dim=1)], dim=1)
    return expected, found, cached


def test_a_prompt_of_theirs_gives_their_logits(pair):
    """A difference would mean that adapters from PEFT say something else here."""
    theirs, ours, folder = pair
    theirs.save_pretrained(folder / "adapter", save_embedding_layers=False)
    with torch.no_grad():
        tokens = torch.arange(6)[None]
        alone = ours.head(ours(tokens, source=Source.of(tokens)) if ours.reads_source else ours(tokens))
        read(folder / "adapter", ours)
        prompted = ours.head(ours(tokens, source=Source.of(tokens)) if ours.reads_source else ours(tokens))
    assert (alone - prompted).abs().max() > 1e-3  # or the comparison below would prove nothing
    expected, found, cached = logits_of(theirs, ours)
    torch.testing.assert_close(found, expected, **CLOSE)
    torch.testing.assert_close(cached, expected, **CLOSE)


def test_a_prompt_of_ours_is_read_by_them(pair):
    """A difference would mean that what is trained here cannot be used elsewhere."""
    theirs, ours, folder = pair
    config = soft_prompt.Config(length=6)
    soft_prompt.apply(ours, config, "p")
    settings, tensors = peft_prompt.write(ours, config, "p")
    settings |= {
        "peft_type": peft_prompt.TYPE, "task_type": "SEQ_2_SEQ_LM" if ours.reads_source else "CAUSAL_LM",
        "base_model_name_or_path": str(folder / "base"), "inference_mode": True,
    }  # fmt: skip
    out = folder / "ours"
    out.mkdir()
    (out / "adapter_config.json").write_text(json.dumps(settings))
    save_file(tensors, out / "adapter_model.safetensors")
    again = peft.PeftModel.from_pretrained(theirs.get_base_model(), out).eval()
    expected, found, cached = logits_of(again, ours)
    torch.testing.assert_close(found, expected, **CLOSE)
    torch.testing.assert_close(cached, expected, **CLOSE)
    back = read(out, weights.load(folder / "base"))
    assert logits_of(again, back)[1].equal(found)


@pytest.mark.parametrize(
    ("stored", "config", "match"),
    [
        ({}, {"num_virtual_tokens": 5}, "no prompt"),
        ({"prompt_embeddings": torch.zeros(4, 8)}, {"num_virtual_tokens": 5}, "has 4 vectors"),
        ({"prompt_embeddings": torch.zeros(4, 8)}, {}, "say None"),
    ],
)
def test_a_damaged_prompt_is_refused(stored, config, match):
    """A failure would mean a traceback, or a prompt that is only half there."""
    with pytest.raises(UserError, match=match):
        peft_prompt.entry(config, stored, None, "adapter")
