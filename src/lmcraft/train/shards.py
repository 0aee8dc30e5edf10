"""A model in shares: every tensor cut along its first dimension, one piece a process (FSDP2), and put together again.

1. Each Transformer block that reads no source is one unit, the rest (embedding, last norm, head) is the outermost one.
   The latter stays put together between `model(…)` and the backward, so `model.head(…)` finds its matrix.
2. Frozen parameters are cut like the others. Vectors (norms, biases) and what is no plain floating tensor (a quantized
   base) stay whole in every process.
3. In bfloat16 the matrices of a block are sent so, and its products need no copy of them. Under autocast alone every
   product would keep a copy until the backward, and so in the end the whole model.
4. The library of shares (DTensor, FSDP2) is imported only where a model is cut: it takes a second and some memory.
5. Process r of n holds rows r·⌈rows/n⌉ to (r+1)·⌈rows/n⌉, which may be none.

Proved by tests/parallel/test_same_result.py, tests/parallel/test_adapters.py and
tests/parallel/test_sharded_checkpoints.py.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

BLOCKS = "blocks"  # the name under which models keep their Transformer blocks


def split(model: nn.Module, products: torch.dtype) -> nn.Module:
    """Cuts a model, in place; returns the same model without weights, to be filled by `joined`.

    Args:
        products: in which numbers matrices are multiplied.
    """
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    absent = {
        id(p): nn.Parameter(torch.empty_like(p, device="meta"), requires_grad=p.requires_grad)
        for p in model.parameters()
    }
    empty = copy.deepcopy(model, absent)  # tied names stay one parameter
    uncut = {p for p in model.parameters() if not _can_be_cut(p)}
    blocks = [
        block
        for name, module in model.named_modules()
        if name.rpartition(".")[2] == BLOCKS and isinstance(module, nn.ModuleList)
        for block in module
        if getattr(block, "cross", None) is None  # its keys and values of the source are made outside of it
    ]
    model.register_forward_hook(_with_gradient)
    for block in blocks:
        half = MixedPrecisionPolicy(products, reduce_dtype=torch.float32, cast_forward_inputs=False)
        narrow = products != torch.float32
        fully_shard(block, ignored_params=uncut, mp_policy=half if narrow else MixedPrecisionPolicy())
    fully_shard(model, ignored_params=uncut, reshard_after_forward=False)
    for unit in _units(model):
        unit.set_gradient_divide_factor(1.0)
        unit.set_force_sum_reduction_for_comms(True)
    return empty


def _with_gradient(model: nn.Module, args: tuple, hidden: Tensor) -> Tensor:
    """Lets the outermost unit see a backward also where only the head is trained, or it would not sum gradients."""
    if hidden._is_view():  # the library warns of views, for what is done to them in place has no gradient
        hidden = hidden.clone()
    return hidden.requires_grad_() if torch.is_grad_enabled() and not hidden.requires_grad else hidden


def _units(model: nn.Module) -> list:
    """The modules that are put together as one: each is what the library calls an FSDPModule."""
    return [module for module in model.modules() if hasattr(module, "set_gradient_divide_factor")]


def _can_be_cut(parameter: nn.Parameter) -> bool:
    return parameter.ndim > 1 and parameter.is_floating_point() and type(parameter) is nn.Parameter


def joined(model: nn.Module, empty: nn.Module, keep: bool) -> nn.Module | None:
    """A model of ordinary tensors in main memory; every process takes part, those that `keep` get it."""
    rest(model)
    filled = {}
    named = dict(model.named_parameters())
    for name, absent in empty.named_parameters():
        whole = full(named[name].detach())
        if keep:
            filled[id(absent)] = nn.Parameter(whole.cpu(), requires_grad=absent.requires_grad)
    return copy.deepcopy(empty, filled).train(model.training) if keep else None


def rest(model: nn.Module) -> None:
    """Takes apart again what a forward without a backward has put together."""
    for unit in _units(model):
        unit.reshard()


def is_share(tensor: Tensor) -> bool:
    """Whether a tensor is cut over the processes."""
    return hasattr(tensor, "full_tensor")  # a DTensor


def own(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor, sharing its memory."""
    return tensor.to_local() if is_share(tensor) else tensor


def full(tensor: Tensor) -> Tensor:
    """The whole tensor, in every process; a collective for one that is cut."""
    return tensor.full_tensor() if is_share(tensor) else tensor


def span(rows: int, rank: int, world: int) -> slice:
    """Which rows of a tensor process `rank` of `world` holds."""
    each = -(-rows // world)
    return slice(min(rows, rank * each), min(rows, (rank + 1) * each))


def cut_like(whole: Tensor, pattern: Tensor) -> Tensor:
    """A whole tensor, cut as `pattern` is (and left whole if that is): nothing is sent."""
    if not is_share(pattern):
        return whole
    mesh = pattern.device_mesh
    part = whole[span(len(whole), mesh.get_local_rank(), mesh.size())]
    local = part.to(device=pattern.to_local().device, copy=True).contiguous()
    return type(pattern).from_local(
        local, mesh, pattern.placements, run_check=False, shape=whole.shape, stride=pattern.stride()
    )
