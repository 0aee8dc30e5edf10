"""Tensors that have a shape and no memory: any code of ours runs on them, as in a real run.

    with Weightless(ledger) as mode:
        model = mode.copy(model)          # or one that was built on the meta device
        ...                               # the real stage, loop and optimizer

1. Operations on such tensors are those of torch's FakeTensorMode, which chooses the kernels of the device that it
   stands for (so attention is the fused one of a CPU). Their results have no numbers.
2. Tensors of whole numbers and truth values that do not depend on weights (tokens, targets, segments, masks) are real
   as long as they are small. So whatever a program decides from them, it decides as in a real run.
3. A question about a number without value is answered with 1 or true: a loss that is finite, say.
4. Every storage is reported to the ledger, with or without numbers; and the floating-point operations of products and
   of attention are added up. The heap is told of products, because their library keeps buffers.

Proved by tests/unit/train/test_weightless.py and benchmarks/plan_grid.py.
"""

from __future__ import annotations

import copy
import math
from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from .ledger import Ledger, held_by

REAL_ELEMENTS = 1 << 22  # a larger tensor has no numbers, whatever it is
_aten = torch.ops.aten


class Weightless(TorchDispatchMode):
    """See the module's docstring."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__()
        self.ledger = ledger
        self.fake = FakeTensorMode(allow_non_fake_inputs=True)
        self.operations: Counter[str] = Counter()  # by phase

    def __torch_dispatch__(self, func, types, args=(), kwargs=None) -> Any:
        kwargs = kwargs or {}
        if func is torch.ops.prim.device.default:
            return args[0].fake_device if isinstance(args[0], FakeTensor) else args[0].device
        if func.overloadpacket in _PRODUCTS:
            self.ledger.heap.multiply(*args[-1].shape[-2:])
        result = self._run(func, args, kwargs)
        if (count := _COUNTS.get(func.overloadpacket)) is not None:
            self.operations[self.ledger.phase] += count(*args, **kwargs, out_val=result)
        if isinstance(result, Tensor):
            self.ledger.note(result)
        else:
            for leaf in tree_leaves(result):
                if isinstance(leaf, Tensor):
                    self.ledger.note(leaf)
        return result

    def _run(self, func: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if not any(isinstance(tensor, FakeTensor) for tensor in tensors):
            if _elements(func, args, tensors) <= REAL_ELEMENTS:
                return func(*args, **kwargs)
        elif func is _aten._local_scalar_dense.default:
            return _answer(args[0].dtype)
        elif func in (_aten.index.Tensor, _aten.index_put_.default, _aten.index_put.default):
            args = (args[0], _places(args[1]), *args[2:])
        with self.fake:
            return func(*args, **kwargs)

    def copy(self, model: nn.Module) -> nn.Module:
        """The same model without memory: same classes, hooks, ties and what is trained."""
        memo: dict[int, Any] = {}
        for tensor in held_by(model):
            with self.fake:
                empty = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="cpu")
            memo[id(tensor)] = (
                nn.Parameter(empty, requires_grad=tensor.requires_grad)
                if isinstance(tensor, nn.Parameter)
                else empty
            )
        return copy.deepcopy(model, memo)


def _attention(query, key, value, *_, out_val, **__) -> int:
    """Two products of all queries with all keys."""
    return 4 * math.prod(query.shape[:3]) * key.shape[2] * query.shape[3]


def _attention_backward(_, query, key, *__, out_val, **___) -> int:
    """The weights once more, and two products for each of the two in the forward."""
    return 10 * math.prod(query.shape[:3]) * key.shape[2] * query.shape[3]


_PRODUCTS = (_aten.mm, _aten.bmm, _aten.addmm)
_COUNTS = {
    **flop_registry,
    _aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    _aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}


def _elements(func: Any, args: tuple, tensors: list[Tensor]) -> int:
    """How many numbers an operation on real tensors makes, at most; that of one which makes a tensor from nothing."""
    if not tensors:
        sizes = args[0] if args and isinstance(args[0], list | tuple) else args[:1]
        numbers = [size for size in sizes if isinstance(size, int)]
        return math.prod(numbers) if numbers else 0
    try:
        return math.prod(torch.broadcast_shapes(*(tensor.shape for tensor in tensors)))
    except RuntimeError:  # they are no operands of one another
        return max(tensor.numel() for tensor in tensors)


def _answer(dtype: torch.dtype) -> bool | int | float:
    if dtype == torch.bool:
        return True
    return 1.0 if dtype.is_floating_point else 1


def _places(indices: list[Tensor | None]) -> list[Tensor | None]:
    """Indices with the masks among them as the numbers of their places."""
    places: list[Tensor | None] = []
    for index in indices:
        if index is not None and index.dtype == torch.bool and not isinstance(index, FakeTensor):
            places += index.nonzero().unbind(dim=1)
        else:
            places.append(index)
    return places
