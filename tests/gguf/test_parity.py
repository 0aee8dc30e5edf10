"""Every architecture of GGUF files against `transformers`: a model of theirs, written as llama.cpp's converters do."""

from __future__ import annotations

import math

import gguf
import numpy as np
import pytest
import torch

from lmcraft.core.errors import UserError
from lmcraft.generate.language_model import LanguageModel
from lmcraft.models import weights
from lmcraft.models.gguf.load import load

Kind = gguf.GGMLQuantizationType
CONTEXT, VOCAB, LENGTH = 32, 67, 96
SIZES = {
    "vocab_size": VOCAB, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": CONTEXT, "rms_norm_eps": 1e-6,
}  # fmt: skip
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}  # fmt: skip
LINEAR = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": CONTEXT,
}
CASES: dict[str, tuple[str, dict]] = {
    "llama": ("llama", {}), "llama-untied": ("llama", {"tie_word_embeddings": False}),
    "llama-linear": ("llama", {"rope_parameters": LINEAR}),
    "llama-yarn": ("llama", {"rope_parameters": YARN, "max_position_embeddings": 4 * CONTEXT}),
    "llama-3": ("llama", {"rope_parameters": LLAMA3}), "qwen2": ("qwen2", {}), "qwen3": ("qwen3", {}),
    "gemma3": ("gemma3", {"num_hidden_layers": 7, "sliding_window": 8, "query_pre_attn_scalar": 16}),
    "gpt2": ("gpt2", {}),
}  # fmt: skip


def theirs(kind: str, settings: dict) -> torch.nn.Module:
    """A small random model of theirs; norms and biases too are random, so none can be mixed up unseen."""
    import transformers

    torch.manual_seed(0)
    if kind == "gpt2":
        config = transformers.GPT2Config(
            vocab_size=VOCAB, n_positions=LENGTH, n_embd=64, n_layer=2, n_head=4, n_inner=96
        )
        model = transformers.GPT2LMHeadModel(config)
    else:
        name = {"llama": "Llama", "qwen2": "Qwen2", "qwen3": "Qwen3", "gemma3": "Gemma3"}[kind]
        config = getattr(transformers, name + ("TextConfig" if kind == "gemma3" else "Config"))(
            **(SIZES | {"tie_word_embeddings": True} | settings)
        )
        model = getattr(transformers, f"{name}ForCausalLM")(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * (0.3 if parameter.ndim == 1 else 0.05))
    return model.eval()


def facts(kind: str, config) -> dict:
    """What a converter writes about a model."""
    if kind == "gpt2":
        return {
            "general.architecture": kind, "gpt2.block_count": config.n_layer, "gpt2.context_length": config.n_positions,
            "gpt2.embedding_length": config.n_embd, "gpt2.feed_forward_length": config.n_inner,
            "gpt2.attention.head_count": config.n_head, "gpt2.attention.layer_norm_epsilon": config.layer_norm_epsilon,
        }  # fmt: skip
    rope = config.rope_parameters.get("full_attention", config.rope_parameters)
    found = {
        "general.architecture": kind, f"{kind}.block_count": config.num_hidden_layers,
        f"{kind}.context_length": config.max_position_embeddings, f"{kind}.embedding_length": config.hidden_size,
        f"{kind}.feed_forward_length": config.intermediate_size, f"{kind}.attention.head_count": 4,
        f"{kind}.attention.head_count_kv": 2, f"{kind}.attention.key_length": 16, f"{kind}.attention.value_length": 16,
        f"{kind}.rope.freq_base": float(rope["rope_theta"]),
        f"{kind}.attention.layer_norm_rms_epsilon": config.rms_norm_eps,
    }  # fmt: skip
    if kind == "gemma3":
        found["gemma3.attention.sliding_window"] = config.sliding_window
    if rope["rope_type"] in ("linear", "yarn"):
        found |= {
            f"{kind}.rope.scaling.type": rope["rope_type"],
            f"{kind}.rope.scaling.factor": rope["factor"],
        }
    if rope["rope_type"] == "yarn":
        found[f"{kind}.rope.scaling.original_context_length"] = rope["original_max_position_embeddings"]
    return found


def converted(kind: str, model: torch.nn.Module) -> dict[str, np.ndarray]:
    """The tensors that a converter writes, under the names of the library's own table."""
    config = model.config
    arch = {name: number for number, name in gguf.MODEL_ARCH_NAMES.items()}[kind]
    names = gguf.get_tensor_name_map(arch, config.num_hidden_layers)
    found = {}
    for name, tensor in model.state_dict().items():
        stem, _, suffix = name.rpartition(".")
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        values = tensor.numpy().copy()
        if kind == "llama" and stem.endswith(("q_proj", "k_proj")):
            heads = 4 if stem.endswith("q_proj") else 2
            split = values.reshape(heads, 2, len(values) // heads // 2, *values.shape[1:])
            values = split.swapaxes(1, 2).reshape(values.shape)
        if kind == "gemma3" and stem.endswith("norm"):
            values = values + 1
        if kind == "gpt2" and stem.endswith(("c_attn", "c_proj", "c_fc")) and suffix == "weight":
            values = values.T
        found[f"{names.get_name(stem)}.{suffix}"] = np.ascontiguousarray(values)
    if kind == "llama" and config.rope_parameters["rope_type"] == "llama3":
        found["rope_freqs.weight"] = llama3_factors(16)
    return found


def llama3_factors(width: int) -> np.ndarray:
    """The divisors of frequencies as converters write them, one by one."""
    factors = []
    for i in range(width // 2):
        wavelength = 2 * math.pi * 10000.0 ** (2 * i / width)
        if wavelength < 8192 / 4:
            factors.append(1.0)
        elif wavelength > 8192:
            factors.append(8.0)
        else:
            smooth = (8192 / wavelength - 1) / (4 - 1)
            factors.append(1 / ((1 - smooth) / 8 + smooth))
    return np.array(factors, np.float32)


@pytest.mark.parametrize("case", CASES)
def test_logits_are_theirs(files, case):
    """A failure would mean that a GGUF file of this architecture is another model after it is read."""
    kind, settings = CASES[case]
    model = theirs(kind, settings)
    ours = load(files.write(files.folder / "x.gguf", facts(kind, model.config), converted(kind, model)))
    tokens_BT = torch.randint(0, VOCAB, (2, LENGTH), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(ours.head(ours(tokens_BT)), model(tokens_BT).logits, rtol=1e-4, atol=1e-4)
    weights.save(ours, files.folder / "saved")
    again = type(model).from_pretrained(files.folder / "saved").eval()
    with torch.no_grad():
        torch.testing.assert_close(ours.head(ours(tokens_BT)), again(tokens_BT).logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "number", [Kind.Q8_0, Kind.Q4_0, Kind.Q4_1, Kind.Q5_0, Kind.Q5_1, Kind.F16, Kind.BF16]
)
def test_quantized_models_are_the_dequantized_ones(files, number):
    """A failure would mean that a quantized file gives other weights than its own, or rows in another order."""
    model = theirs("llama", {})
    tensors = converted("llama", model)
    ours = load(files.write(files.folder / "x.gguf", facts("llama", model.config), tensors, number))
    rounded = {
        name: gguf.quants.dequantize(gguf.quants.quantize(values, number), number)
        if values.ndim == 2
        else values
        for name, values in tensors.items()
    }
    plain = load(files.write(files.folder / "y.gguf", facts("llama", model.config), rounded))
    for name, parameter in ours.named_parameters():
        assert torch.equal(parameter, plain.state_dict()[name]), name


@pytest.mark.parametrize(
    "change",
    [{"llama.rope.scaling.type": "longrope"}, {"llama.attention.value_length": 8}, {"llama.rope.dimension_count": 8},
     {"llama.expert_count": 4}, {"gpt2.block_count": 2}],
)  # fmt: skip
def test_what_would_change_the_function_is_refused(files, change):
    """A failure would mean that a model computes something else than its file says, without a word."""
    model = theirs("llama", {})
    told = facts("llama", model.config) | change
    if "gpt2.block_count" in change:
        told["general.architecture"] = "mamba"
    with pytest.raises(UserError):
        load(files.write(files.folder / "x.gguf", told, converted("llama", model)))


def test_other_rotary_divisors_are_refused(files):
    """A failure would mean that long texts silently come out wrong."""
    model = theirs("llama", {"rope_parameters": LLAMA3})
    tensors = converted("llama", model)
    tensors["rope_freqs.weight"][3] *= 1.5
    with pytest.raises(UserError, match="rotary divisors"):
        load(files.write(files.folder / "x.gguf", facts("llama", model.config), tensors))


def test_a_pulled_model_can_be_a_base_and_a_folder(files):
    """A failure would mean that a folder with one GGUF file in it, as other programs keep them, is no model."""
    file = files.llama()
    assert LanguageModel.load(file.parent).ids("the") == LanguageModel.load(file).ids("the")
    other = file.with_suffix(".bin")
    file.rename(other)
    assert (
        LanguageModel.load(other).generate("the", max_new_tokens=3).tokens
    )  # its first bytes say what it is
