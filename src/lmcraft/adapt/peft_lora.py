"""LoRA and DoRA in PEFT's format.

1. PEFT's files hold A [R, in] and B [out, R] of each public module as `lora_A.weight` and `lora_B.weight`
   (`lora_embedding_A`, `lora_embedding_B` beside an embedding), and m as `lora_magnitude_vector`.
2. A public module that holds several of ours (GPT-2's c_attn: q, k and v) is read by cutting B into their rows; each
   gets the whole A. It is written with a block-diagonal B: the ranks add up, and alpha_pattern keeps the scale.

Proved by tests/parity/test_peft.py.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..core.errors import UserError
from . import adapter, lora
from .peft_names import Names

KIND, TYPE = "lora", "LORA"
_KEY = re.compile(
    r"(.+)\.(lora_A|lora_B|lora_embedding_A|lora_embedding_B|lora_magnitude_vector)(?:\.weight)?"
)
OURS = {
    "lora_A": "A",
    "lora_B": "B",
    "lora_embedding_A": "A",
    "lora_embedding_B": "B",
    "lora_magnitude_vector": "m",
}
# What changes the function, and has no counterpart: the value of each that means "off".
OFF: dict[str, tuple] = {
    "bias": ("none", None), "lora_bias": (False, None), "layer_replication": (None, []), "megatron_config": (None,),
    "trainable_token_indices": (None, []), "target_parameters": (None, []), "alora_invocation_tokens": (None, []),
    "use_qalora": (False, None), "velora_config": (None,), "monteclora_config": (None,), "use_bdlora": (None, False),
    "arrow_config": (None,),
}  # fmt: skip
CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
LONGEST_PATTERN = 200


def write(
    model: nn.Module, config: lora.Config, name: str, names: Names
) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
    """Settings and tensors by public names; None if a module has no public name."""
    parts = {path.partition(".beside.")[0]: part for path, part in adapter.parts(model, name).items()}
    found: dict[str, Tensor] = {}
    sizes: dict[str, tuple[int, float]] = {}
    for public, ours in names.modules.items():
        there = {our: parts.pop(our) for our in ours if our in parts}
        if there:
            scale = next(iter(there.values())).scale
            joined = _joined(model, ours, there, scale)
            rank = len(joined["A"])
            sizes[public] = (rank, _alpha(scale, rank, config.rank_stabilized))
            looked_up = adapter.looks_up(model.get_submodule(ours[0]))
            for ending, tensor in joined.items():
                found[f"{public}.{_public(ending, looked_up)}"] = tensor.detach().contiguous()
    if parts:
        return None
    (rank, alpha), _ = Counter(sizes.values()).most_common(1)[0]
    return {
        "r": rank, "lora_alpha": alpha, "lora_dropout": config.dropout, "use_rslora": config.rank_stabilized,
        "use_dora": config.dora, "bias": "none", "init_lora_weights": True, "target_modules": names.short(sizes),
        "fan_in_fan_out": bool(names.turned & set(sizes)),
        "rank_pattern": {re.escape(public): r for public, (r, _) in sizes.items() if r != rank},
        "alpha_pattern": {re.escape(public): a for public, (_, a) in sizes.items() if a != alpha},
    }, found  # fmt: skip


def _public(ending: str, looked_up: bool) -> str:
    if ending == "m":
        return "lora_magnitude_vector"
    return f"lora_embedding_{ending}" if looked_up else f"lora_{ending}.weight"


def _alpha(scale: float, rank: int, rank_stabilized: bool) -> float | int:
    alpha = round(scale * (rank**0.5 if rank_stabilized else rank), 10)
    return int(alpha) if alpha == int(alpha) else alpha


def _joined(
    model: nn.Module, ours: tuple[str, ...], parts: dict[str, lora.LoRA], scale: float
) -> dict[str, Tensor]:
    """A, B and m of a public module; B is zero for those of ours that have no part."""
    rank = sum(part.rank for part in parts.values())
    blocks, norms, first = [], [], 0
    for path in ours:
        module, part = model.get_submodule(path), parts.get(path)
        block = torch.zeros(lora.sides(module)[0], rank)
        if part is not None:
            block[:, first : first + part.rank] = part.B.detach().cpu() * (part.scale / scale)
            first += part.rank
        blocks.append(block)
        norms.append(
            torch.linalg.norm(adapter.matrix(module), dim=1) if part is None or part.m is None else part.m
        )
    joined = {"A": torch.cat([part.A.detach().cpu() for part in parts.values()]), "B": torch.cat(blocks)}
    if any(part.m is not None for part in parts.values()):
        joined["m"] = torch.cat([norm.detach().cpu() for norm in norms])
    return joined


def entry(config: Mapping[str, Any], stored: Mapping[str, Tensor], names: Names, where: str) -> lora.Config:
    """Our Config of an adapter_config.json.

    Raises:
        UserError: a setting that would be ignored, or modules that the model does not have.
    """
    for key, off in OFF.items():
        if key in config and config[key] not in off:
            raise _refusal(f"{key} = {config[key]!r}", where, "it has no counterpart here")
    start = config.get("init_lora_weights", True)
    if isinstance(start, str) and start.lower().startswith(CHANGES_BASE):
        raise _refusal(
            f"init_lora_weights = {start!r}", where, "it changes the base's weights, which are not stored"
        )
    sizes: dict[str, tuple[int, float]] = {}
    for key, tensor in stored.items():
        matched = _KEY.fullmatch(key)
        if matched and OURS[matched[2]] == "A":
            public = names.known(matched[1])
            if public is None:
                raise _stranger(key, where)
            alpha = _pattern(
                config.get("alpha_pattern") or {}, matched[1], config.get("lora_alpha", 8), where
            )
            sizes |= dict.fromkeys(names.modules[public], (len(tensor), alpha))
    if not sizes:
        raise UserError("there is no LoRA in this adapter", where=where, why="no tensor is called lora_A")
    (rank, alpha), _ = Counter(sizes.values()).most_common(1)[0]
    return lora.Config(
        rank=rank, alpha=alpha, rank_stabilized=bool(config.get("use_rslora")), dora=bool(config.get("use_dora")),
        dropout=config.get("lora_dropout") or 0.0, targets=tuple(sizes),
        rank_pattern={path: r for path, (r, _) in sizes.items() if r != rank},
        alpha_pattern={path: a for path, (_, a) in sizes.items() if a != alpha},
    )  # fmt: skip


def _pattern(patterns: Any, public: str, default: Any, where: str) -> float:
    """What the first of PEFT's patterns (regular expressions for the end of a name) that fits says."""
    try:
        for key, value in patterns.items():
            if len(key) <= LONGEST_PATTERN and re.match(rf"(.*\.)?({key})$", public):
                return float(value)
        return float(default)
    except (AttributeError, TypeError, ValueError, re.error) as error:
        raise UserError("the adapter's alpha cannot be read", where=where, why=str(error)) from error


def tensors(
    stored: Mapping[str, Tensor], model: nn.Module, name: str, names: Names, where: str
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The tensors of the parts called `name` by our names, and what is left."""
    found: dict[str, Tensor] = {}
    rest: dict[str, Tensor] = {}
    for key, tensor in stored.items():
        matched = _KEY.fullmatch(key)
        if matched is None:
            rest[key] = tensor
            continue
        public = names.known(matched[1])
        if public is None:
            raise _stranger(key, where)
        modules = {path: model.get_submodule(path) for path in names.modules[public]}
        for path, piece in _cut(tensor, OURS[matched[2]], modules, name).items():
            found[f"{path}.beside.{name}.{OURS[matched[2]]}"] = piece
    return found, rest


def _cut(tensor: Tensor, ending: str, modules: dict[str, nn.Module], name: str) -> dict[str, Tensor]:
    """A public tensor as those of our modules that have a part."""
    parts = {path: m.beside[name] for path, m in modules.items() if name in getattr(m, "beside", {})}
    rows = [lora.sides(module)[0] for module in modules.values()]
    if ending != "A" and len(tensor) != sum(rows):
        return dict.fromkeys(parts, tensor)  # of another shape than the model's: refused where it is copied
    by_rows = dict(zip(modules, tensor.split(rows), strict=True)) if ending != "A" else {}
    columns = len(tensor) if ending == "A" else tensor.shape[-1]
    found, first, blocks = {}, 0, len(parts) > 1 and sum(p.rank for p in parts.values()) == columns
    for path, part in parts.items():
        block = slice(first, first + part.rank) if blocks else slice(None)
        first += part.rank
        if ending == "A":
            found[path] = tensor[block]
        else:
            found[path] = by_rows[path][:, block] if ending == "B" else by_rows[path]
    return found


def _refusal(what: str, where: str, why: str) -> UserError:
    return UserError(
        f"{what} is not supported", where=where, why=f"{why}; ignoring it would change what is computed"
    )


def _stranger(key: str, where: str) -> UserError:
    return UserError(f"the adapter stands beside a module that this model does not have: {key}", where=where,
                     why="it is of another base")  # fmt: skip
