"""Public names of modules in PEFT's files, from the tables of the families.

Proved by tests/parity/test_peft.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..core.errors import UserError
from ..models import families
from ..models.families import Link

PREFIX = "base_model.model."
BASE_LAYER = ".base_layer"


@dataclass(frozen=True)
class Names:
    """Which of our modules a public module holds.

    Attributes:
        modules: our modules by the name of the public one (several: joined along the outputs).
        turned: public modules that keep their matrix as [in, out].
        links: the family's table by public tensor, those that are stored twice under both names.
        prefixes: other beginnings of public names, and what they stand for.
    """

    modules: dict[str, tuple[str, ...]]
    turned: frozenset[str]
    links: dict[str, Link]
    prefixes: Mapping[str, str]

    @classmethod
    def of(cls, model: nn.Module) -> Names | None:
        """Of the family that expresses a model; None if there is none."""
        family = families.of(model.config)
        if family is None:
            return None
        modules, turned, links = {}, set(), {}
        for link in family.links(model.config):
            links |= dict.fromkeys((link.public, *link.copies), link)
            public = link.public.removesuffix(".weight")
            if public == link.public or link.lead or link.as_row:
                continue
            modules[public] = tuple(our.removesuffix(".weight") for our in link.ours)
            if link.transposed:
                turned.add(public)
            for copy in link.copies:  # a tied head is a module of its own, with the embedding's weight
                if link.ours == ("embedding.weight",) and copy.endswith(".weight"):
                    modules[copy.removesuffix(".weight")] = ("output",)
        return cls(modules, frozenset(turned), links, family.PREFIXES)

    def known(self, public: str) -> str | None:
        """A module as the table names it, whatever class of the family has named it."""
        return next((option for option in self._spellings(public) if option in self.modules), None)

    def _spellings(self, public: str) -> list[str]:
        """A public name as it is, and with other beginnings that the family's classes give it."""
        beginnings = [(old, new) for old, new in self.prefixes.items() if public.startswith(old)]
        return [public, *(new + public[len(old) :] for old, new in beginnings)]

    def short(self, wanted: Iterable[str]) -> list[str]:
        """Ends of names that mean exactly these public modules, without numbers of layers where possible."""
        wanted = set(wanted)
        found: dict[str, None] = {}
        for public in sorted(wanted):
            words = public.split(".")
            last = max((i for i, word in enumerate(words) if word.isdecimal()), default=-1)
            end = ".".join(words[last + 1 :])
            meant = {one for one in self.modules if f".{one}".endswith(f".{end}")}
            found[end if meant <= wanted else public] = None
        return list(found)

    def whole(self, model: nn.Module, beside: list[str]) -> tuple[dict[str, Tensor], list[str]] | None:
        """Tensors of modules that are trained whole, by public names, and the modules; None if PEFT cannot say it."""
        by_ours = {link.ours[0]: link for link in self.links.values() if len(link.ours) == 1}
        state, found, modules = model.state_dict(), {}, {}
        for name in beside:
            link = by_ours.get(name)
            if link is None or link.lead or link.as_row or link.transposed:
                return None
            modules[link.public.rpartition(".")[0]] = name.rpartition(".")[0]
            found[link.public] = state[name].detach()
        for ours in modules.values():
            own = {f"{ours}.{name}" for name, _ in model.get_submodule(ours).named_parameters()}
            if not own <= set(beside):
                return None
        return found, list(modules)

    def read_whole(self, stored: Mapping[str, Tensor], model: nn.Module, where: str) -> dict[str, Tensor]:
        """Tensors of whole modules by our names; a copy of the base's own weight is left out.

        Raises:
            UserError: a tensor that the model does not have.
        """
        found, state = {}, model.state_dict()
        for name, tensor in stored.items():
            plain = name.replace(f"{BASE_LAYER}.", ".")
            spellings = self._spellings(plain)
            link = next((self.links[one] for one in spellings if one in self.links), None)
            if link is None or len(link.ours) != 1 or link.lead or link.as_row or link.transposed:
                raise UserError(
                    f"the adapter has a tensor that is none of this model's: {name}", where=where,
                    why="it belongs to another base, or to a head that this model does not have",
                )  # fmt: skip
            ours = state.get(link.ours[0])
            if ours is None or ours.shape != tensor.shape:
                raise UserError(
                    f"{name} has another shape than in the base",
                    where=where,
                    why=f"{list(tensor.shape)} in the adapter",
                )
            if not torch.equal(ours, tensor.to(ours.dtype)):
                found[link.ours[0]] = tensor
        return found
