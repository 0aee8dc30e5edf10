"""The architectures of GGUF files, told in the words of config.json and of public tensor names.

Keys: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. What a family computes is known in one place (the
table of public families); here is only how a GGUF file spells it, and what its writers changed in the tensors:

1. `llama` files hold the rows of q and k in the order of the original Llama code, in which neighbours are rotated
   together; the public order rotates the two halves of a head. The rows are put back head by head.
2. `gemma3` files hold the weights of norms as w + 1, public ones as w.
3. `gpt2` files hold matrices as [out, in], public ones as [in, out].
4. A file without `output.weight` ties the head to the embedding.
5. What a file leaves out (Gemma's window pattern, local base and attention scale) is what its readers fill in.

Legend: shapes are rows first.
Proved by tests/gguf/test_parity.py and tests/gguf/test_hostile_gguf.py.
"""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np

from ...core.errors import UserError
from ...core.gguf import Header

ARCHITECTURES = ("llama", "qwen2", "qwen3", "gemma3", "gpt2")
# A tensor that says what rotary scaling says too.
ROTARY_FACTORS = "rope_freqs.weight"

_TOP = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
_PARTS = {
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}  # fmt: skip
_GEMMA_PARTS = _PARTS | {
    "post_attention_layernorm": "post_attention_norm", "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}  # fmt: skip
_GPT2_TOP = {
    "transformer.wte": "token_embd", "transformer.wpe": "position_embd", "transformer.ln_f": "output_norm",
    "lm_head": "output",
}  # fmt: skip
_GPT2_PARTS = {
    "ln_1": "attn_norm", "attn.c_attn": "attn_qkv", "attn.c_proj": "attn_output", "ln_2": "ffn_norm",
    "mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down",
}  # fmt: skip
_LAYER = re.compile(r"(?:model\.layers|transformer\.h)\.(\d+)\.(.+)")
_LARGEST_GEMMA_LAYERS = 62
MAX_LAYERS = 512


def architecture(header: Header) -> str:
    """The architecture of a file that holds a whole model; UserError for any other."""
    if header.facts.get("split.count", 0) not in (0, 1):
        raise UserError("this is one part of a model in several files", where=str(header.path),
                        fix="join them with `llama-gguf-split --merge`")  # fmt: skip
    found = header.text("general.architecture")
    if found not in ARCHITECTURES:
        raise UserError(f"GGUF files of the architecture {found!r} cannot be read", where=str(header.path),
                        why=f"known: {', '.join(ARCHITECTURES)}")  # fmt: skip
    return found


def stored_name(kind: str, public: str) -> str:
    """What a GGUF file of an architecture calls a public tensor."""
    name, _, suffix = public.rpartition(".")
    top, parts = (_GPT2_TOP, _GPT2_PARTS) if kind == "gpt2" else (_TOP, _PARTS)
    if kind == "gemma3":
        parts = _GEMMA_PARTS
    layer = _LAYER.fullmatch(name)
    return f"blk.{layer[1]}.{parts[layer[2]]}.{suffix}" if layer else f"{top[name]}.{suffix}"


def restored(kind: str, name: str, values: np.ndarray, config: dict[str, Any]) -> np.ndarray:
    """The public values of a stored tensor; a view or `values` itself, changed."""
    if kind == "llama" and (found := re.search(r"\.attn_([qk])\.(?:weight|bias)$", name)):
        heads = config["num_attention_heads" if found[1] == "q" else "num_key_value_heads"]
        pairs = values.reshape(heads, values.shape[0] // heads // 2, 2, *values.shape[1:])
        return pairs.swapaxes(1, 2).reshape(values.shape)
    if kind == "gemma3" and name.endswith("norm.weight"):
        values -= 1.0
    if kind == "gpt2" and values.ndim == 2 and name.startswith("blk."):
        return values.T
    return values


def public_config(header: Header) -> dict[str, Any]:
    """The config.json that the facts of a file amount to.

    Raises:
        UserError: a fact is missing, of another type, or means something that has no counterpart.
    """
    kind = architecture(header)
    _sizes_agree(header, kind)
    return _gpt2(header) if kind == "gpt2" else _decoder(header, kind)


def _sizes_agree(header: Header, kind: str) -> None:
    """Refuses sizes that the tensors contradict, before a model of these sizes is made."""
    layers = header.integer(f"{kind}.block_count")
    if not 0 < layers <= min(MAX_LAYERS, len(header.tensors)):
        raise UserError(f"{kind}.block_count is {layers:,}", where=str(header.path),
                        why=f"the file holds {len(header.tensors)} tensors; at most {MAX_LAYERS} are read")  # fmt: skip
    embedding, width = header.tensors.get("token_embd.weight"), header.integer(f"{kind}.embedding_length")
    if embedding is None or len(embedding.shape) != 2 or embedding.shape[1] != width:
        found = "missing" if embedding is None else list(embedding.shape)
        raise UserError("the embedding does not fit the sizes of the model", where=str(header.path),
                        why=f"token_embd.weight is {found}, embedding_length {width}")  # fmt: skip


def _decoder(header: Header, kind: str) -> dict[str, Any]:
    heads = _positive(header, f"{kind}.attention.head_count")
    width = header.integer(f"{kind}.embedding_length")
    head_width = header.integer(f"{kind}.attention.key_length", width // heads)
    if header.integer(f"{kind}.attention.value_length", head_width) != head_width:
        raise _unknown(header, "keys and values of different widths")
    if header.integer(f"{kind}.rope.dimension_count", head_width) != head_width:
        raise _unknown(header, "rotary positions on a part of each head")
    config: dict[str, Any] = {
        "model_type": kind, "vocab_size": header.tensors["token_embd.weight"].shape[0], "hidden_size": width,
        "num_hidden_layers": header.integer(f"{kind}.block_count"), "num_attention_heads": heads,
        "num_key_value_heads": header.integer(f"{kind}.attention.head_count_kv", heads), "head_dim": head_width,
        "intermediate_size": _positive(header, f"{kind}.feed_forward_length"),
        "max_position_embeddings": _positive(header, f"{kind}.context_length"),
        "rms_norm_eps": header.number(f"{kind}.attention.layer_norm_rms_epsilon"),
        "hidden_act": "silu", "rope_parameters": _rotary(header, kind), "tie_word_embeddings": _tied(header),
        "attention_bias": kind == "qwen2" or "blk.0.attn_q.bias" in header.tensors,
    }  # fmt: skip
    if f"{kind}.expert_count" in header.facts and header.integer(f"{kind}.expert_count"):
        raise _unknown(header, "mixtures of experts")
    return _gemma(header, config) if kind == "gemma3" else config


def _gemma(header: Header, config: dict[str, Any]) -> dict[str, Any]:
    for key in ("final_logit_softcapping", "attn_logit_softcapping"):
        if header.number(f"gemma3.{key}", 0.0):
            raise _unknown(header, f"{key} in a Gemma 3")
    layers, scale = config["num_hidden_layers"], config["head_dim"]
    if layers == _LARGEST_GEMMA_LAYERS:  # the 27B alone scales by the width of the model over its heads
        scale = config["hidden_size"] // config["num_attention_heads"]
    kinds = ["full_attention" if (layer + 1) % 6 == 0 else "sliding_attention" for layer in range(layers)]
    local = header.number("gemma3.rope.freq_base_swa", 10000.0)
    return config | {
        "model_type": "gemma3_text", "hidden_activation": "gelu_pytorch_tanh", "query_pre_attn_scalar": scale,
        "sliding_window": _positive(header, "gemma3.attention.sliding_window"), "layer_types": kinds,
        "rope_parameters": {
            "full_attention": config["rope_parameters"],
            "sliding_attention": {"rope_type": "default", "rope_theta": local},
        },
    }  # fmt: skip


def _gpt2(header: Header) -> dict[str, Any]:
    return {
        "model_type": "gpt2", "vocab_size": header.tensors["token_embd.weight"].shape[0],
        "n_positions": _positive(header, "gpt2.context_length"), "n_embd": header.integer("gpt2.embedding_length"),
        "n_layer": header.integer("gpt2.block_count"), "n_head": _positive(header, "gpt2.attention.head_count"),
        "n_inner": _positive(header, "gpt2.feed_forward_length"), "activation_function": "gelu_new",
        "layer_norm_epsilon": header.number("gpt2.attention.layer_norm_epsilon"),
        "tie_word_embeddings": _tied(header),
    }  # fmt: skip


def _rotary(header: Header, kind: str) -> dict[str, Any]:
    """Rotary base and scaling as `rope_parameters`; Llama 3's comes as a tensor (`with_llama3`)."""
    base = header.number(f"{kind}.rope.freq_base", 10000.0)
    scaling = header.text(f"{kind}.rope.scaling.type", "none")
    if scaling == "none" and f"{kind}.rope.scale_linear" in header.facts:  # how older files say linear
        scaling, factor = "linear", header.number(f"{kind}.rope.scale_linear")
    else:
        factor = header.number(f"{kind}.rope.scaling.factor", 1.0)
    if scaling == "none" or (scaling == "linear" and factor in (0.0, 1.0)):
        return {"rope_type": "default", "rope_theta": base}
    if scaling == "linear":
        return {"rope_type": "linear", "rope_theta": base, "factor": factor}
    if scaling != "yarn":
        raise _unknown(header, f"rotary scaling {scaling!r}")
    return {
        "rope_type": "yarn", "rope_theta": base, "factor": factor,
        "original_max_position_embeddings": _positive(header, f"{kind}.rope.scaling.original_context_length"),
    }  # fmt: skip


def with_llama3(config: dict[str, Any], factors: np.ndarray, header: Header) -> dict[str, Any]:
    """The config with Llama 3's rotary scaling, which files hold as divisors of the frequencies [head width / 2].

    The divisors do not tell the trained context; it is 8192 in every published model, and they must be what follows
    from it (bands between 1 and 4 turns per context).
    """
    factor, context = float(factors.max()), 8192
    theta = config["rope_parameters"]["rope_theta"]
    expected = []
    for place in range(0, config["head_dim"], 2):
        turns = context / (2 * math.pi * theta ** (place / config["head_dim"]))
        smooth = min(1.0, max(0.0, (turns - 1.0) / (4.0 - 1.0)))
        expected.append(1.0 / ((1.0 - smooth) / factor + smooth))
    if factors.shape != (len(expected),) or not np.allclose(factors, expected, rtol=1e-4):
        raise _unknown(header, f"the rotary divisors in {ROTARY_FACTORS}")
    rope = {
        "rope_type": "llama3", "rope_theta": theta, "factor": factor, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": context,
    }  # fmt: skip
    return config | {"rope_parameters": rope}


def _tied(header: Header) -> bool:
    return "output.weight" not in header.tensors


def _positive(header: Header, key: str) -> int:
    value = header.integer(key)
    if value == 0:
        raise UserError(f"{key} is 0", where=str(header.path), why="no model has such a size")
    return value


def _unknown(header: Header, what: str) -> UserError:
    return UserError(f"{what} cannot be read from GGUF files", where=str(header.path),
                     why="ignoring it would change what the model computes")  # fmt: skip
