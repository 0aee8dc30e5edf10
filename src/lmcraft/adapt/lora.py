"""LoRA: a trained product of two thin matrices beside a weight that stays as it is; DoRA scales the rows as well.

    LoRA:  y = W x + s·B (A x)                s = alpha/rank, or alpha/√rank if `rank_stabilized`
    DoRA:  y = m/‖W + s·B A‖ · (W x + s·B (A x))        norms of rows, m trained

Hu et al., arXiv 2106.09685; Kalajdzievski, arXiv 2312.03732 (rank-stabilized); Liu et al., arXiv 2402.09353 (DoRA).

1. A is drawn as `nn.Linear` draws its weight, B begins at zero, and m at the norms of W: step 0 is the base, bit for
   bit. Beside an embedding, A begins at zero and B is drawn, so that tokens that are never seen stay as they were.
2. The norm in DoRA is a constant to the gradient (section 4.3 of its paper).
3. Dropout acts on x, in training only.
4. The strength dial is linear: y(t) = y(0) + t·(y(1) − y(0)).
5. Without `targets`, it stands beside every linear module of the base but the head and those with one output.

Legend: B rows, T positions, R rank.
Proved by tests/contract/test_adapters.py and tests/parity/test_peft.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from typing import Any, Literal, TypeVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from ..core.config import Strict
from ..core.errors import UserError
from . import adapter

LR = 5e-4
Value = TypeVar("Value")


class Config(Strict):
    """Where LoRA stands and how large it is."""

    kind: Literal["lora"] = "lora"
    rank: int = Field(8, gt=0)
    alpha: float = Field(16.0, gt=0, description="the product is scaled by alpha/rank")
    rank_stabilized: bool = Field(False, description="scale by alpha/√rank, which suits large ranks")
    dropout: float = Field(0.0, ge=0, lt=1, description="of what the product reads, in training")
    dora: bool = Field(False, description="train the norm of every row too (DoRA)")
    targets: tuple[str, ...] = Field(
        (), description="attn.q, mlp.up, embedding, head, …; default: every linear module but the head"
    )
    rank_pattern: dict[str, int] = Field({}, description="another rank for some modules, by end of path")
    alpha_pattern: dict[str, float] = Field({}, description="another alpha for some modules, by end of path")


class LoRA(adapter.Part):
    """The part beside one module; see the module's docstring.

    Args:
        scale: s.
    """

    def __init__(self, module: nn.Module, rank: int, scale: float, dropout: float, dora: bool) -> None:
        super().__init__()
        rows, columns = sides(module)
        here = next(chain(module.parameters(), module.buffers())).device
        self.scale, self.dropout = scale, dropout
        self.A = nn.Parameter(torch.zeros(rank, columns, device=here))
        self.B = nn.Parameter(torch.zeros(rows, rank, device=here))
        if adapter.looks_up(module):
            nn.init.normal_(self.B)
        else:
            nn.init.kaiming_uniform_(self.A, a=5**0.5)
        self.m = None
        if dora:
            with torch.no_grad():
                self.m = nn.Parameter(self._norms(module).to(self.A.dtype))

    @property
    def rank(self) -> int:
        """R."""
        return len(self.A)

    def forward(self, x: Tensor, output: Tensor, module: nn.Module) -> Tensor:
        """What the module puts out, and the product's share."""
        looked_up = adapter.looks_up(module)
        dropped = self.training and self.dropout > 0 and not looked_up
        if dropped:
            x = F.dropout(x, self.dropout)
        thin = F.embedding(x, self.A.t()) if looked_up else F.linear(x.to(self.A.dtype), self.A)
        change = F.linear(thin, self.B) * self.scale
        if self.m is not None:
            share = self.m / self._norms(module).detach()
            if dropped:
                plain = F.linear(x, adapter.matrix(module))
            else:
                bias = getattr(module, "bias", None)
                plain = output if bias is None else output - bias
            change = (share - 1) * plain + share * change
        return output + (change if self.strength == 1 else self.strength * change).to(output.dtype)

    def merged(self, weight: Tensor, module: nn.Module) -> Tensor:
        """The matrix [out, in] that does the same alone."""
        change = self._product()
        if self.m is not None:
            share = (self.m / self._norms(module))[:, None]
            change = (share - 1) * weight + share * change
        return weight + (self.strength * change).to(weight.dtype)

    def _product(self) -> Tensor:
        return self.B @ self.A * self.scale

    def _norms(self, module: nn.Module) -> Tensor:
        """Norm of each row of the adapted matrix, [out]."""
        return torch.linalg.norm(adapter.matrix(module) + self._product(), dim=1)


def sides(module: nn.Module) -> tuple[int, int]:
    """Rows and columns of a module's matrix [out, in]."""
    if adapter.looks_up(module):
        return module.embedding_dim, module.num_embeddings
    return module.out_features, module.in_features


def scale(config: Config, rank: int, alpha: float) -> float:
    """s in the module's docstring."""
    return alpha / (rank**0.5 if config.rank_stabilized else rank)


def chosen(model: nn.Module, config: Config) -> dict[str, nn.Module]:
    """The modules beside which it stands.

    Raises:
        UserError: a name fits nothing.
    """
    if config.targets:
        return adapter.targets(model, config.targets)
    head = getattr(model, "output", None)
    every = adapter.targets(model, adapter.short_names(model, (nn.Linear,)), (nn.Linear,))
    frozen = {
        path: module
        for path, module in every.items()
        if not any(p.requires_grad for p in module.parameters(recurse=False))
    }
    return {path: m for path, m in (frozen or every).items() if m is not head and min(sides(m)) > 1}


def apply(model: nn.Module, config: Config, name: str, tokenizer: Any) -> nn.Module:
    """Puts LoRA beside the modules that the config names.

    Raises:
        UserError: no such module, or a rank larger than the smaller side of a module.
    """
    modules = chosen(model, config)
    sizes = {path: _of(path, config.rank_pattern, config.rank) for path in modules}
    for path, module in modules.items():
        if sizes[path] > min(sides(module)):
            raise UserError(
                f"rank {sizes[path]} is larger than {path} allows", where=f"rank={sizes[path]}",
                why=f"its matrix has {' × '.join(map(str, sides(module)))} numbers: from rank {min(sides(module))} "
                "on, a product of two matrices can be any matrix, and is larger than it",
                fix=f"a rank of at most {min(min(sides(m)) for m in modules.values())}, or other targets",
            )  # fmt: skip
    for path, module in modules.items():
        s = scale(config, sizes[path], _of(path, config.alpha_pattern, config.alpha))
        adapter.put_beside(module, name, LoRA(module, sizes[path], s, config.dropout, config.dora))
    return model


def _of(path: str, pattern: Mapping[str, Value], default: Value) -> Value:
    """What is said for the first end of the path that is named."""
    return next((value for key, value in pattern.items() if f".{path}".endswith(f".{key}")), default)
