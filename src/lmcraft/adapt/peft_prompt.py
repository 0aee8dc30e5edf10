"""Soft prompts in PEFT's format, where they are called prompt tuning.

1. PEFT's file holds one tensor, `prompt_embeddings` [P, D], without the prefix that other methods have.
2. There the prompt stands behind a scaled embedding (Gemma, Marian), here before the scale; so it is scaled on its way.
3. For a model that reads a source, PEFT may keep a second half for the target that it never reads; it is left out.

Legend: P prompt vectors, D width.
Proved by tests/parity/test_peft_prompt.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ..core.errors import UserError
from . import adapter, soft_prompt

KIND, TYPE = "soft_prompt", "PROMPT_TUNING"
TENSOR = "prompt_embeddings"
BARE = (TENSOR,)


def write(
    model: nn.Module, config: soft_prompt.Config, name: str, names: Any = None
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Settings and the tensor of the prompt called `name`."""
    (part,) = adapter.parts(model, name).values()
    sizes = getattr(model.config, "body", model.config)
    settings = {
        "num_virtual_tokens": len(part), "token_dim": sizes.width, "num_transformer_submodules": 1,
        "num_attention_heads": sizes.heads, "num_layers": sizes.layers,
        "prompt_tuning_init": "RANDOM",  # with a text, PEFT would ask for a tokenizer that it does not need
    }  # fmt: skip
    return settings, {TENSOR: (part.prompt.weight.detach() * _scale(model)).contiguous()}


def entry(
    config: Mapping[str, Any], stored: Mapping[str, Tensor], names: Any, where: str
) -> soft_prompt.Config:
    """Our Config of an adapter_config.json.

    Raises:
        UserError: the prompt is missing or of another length than the config says.
    """
    prompt, length = stored.get(TENSOR), config.get("num_virtual_tokens")
    if prompt is None or prompt.ndim != 2:
        raise UserError("there is no prompt in this adapter", where=where, why=f"it has no matrix {TENSOR}")
    halves = config.get("num_transformer_submodules") or 1
    if type(length) is not int or length < 1 or len(prompt) not in (length, length * halves):
        raise UserError(
            f"the prompt has {len(prompt)} vectors, its settings say {length}", where=where,
            why="one of the two files is of another adapter",
        )  # fmt: skip
    return soft_prompt.Config(length=length)


def tensors(
    stored: Mapping[str, Tensor], model: nn.Module, name: str, names: Any, where: str
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The prompt called `name` by our name, and what is left."""
    ((path, part),) = adapter.parts(model, name).items()
    prompt_PD = stored[TENSOR][: len(part)] / _scale(model)
    return {f"{path}.prompt.weight": prompt_PD}, {key: t for key, t in stored.items() if key != TENSOR}


def _scale(model: nn.Module) -> float:
    """What the model multiplies its embeddings with."""
    config = getattr(model.config, "body", model.config)
    scaled = config.norm == "sandwich" or "scaled" in getattr(config, "embedding", "")
    return config.width**0.5 if scaled else 1.0
