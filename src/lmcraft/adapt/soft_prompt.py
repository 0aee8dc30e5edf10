"""Prompt tuning: learned vectors in front of the input, which act on the frozen model as a written prompt would.

    reads  [p_1 … p_P, embed(x_1) … embed(x_T)],   answers for x_1 … x_T           (Lester et al., arXiv 2104.08691)

1. The vectors stand in front of every document of a packed row, and at the source of a model that reads one. Hidden
   vectors come back for the tokens that were given: whoever trains or scores sees no difference in length.
2. To the model they are ids behind its vocabulary, whose vectors its embedding takes from here. So positions, masks,
   memories that are read again and scaled embeddings need no care, and a recurrent network reads them as well.
3. `start` reads them into the memory first; generation continues from there (peft#2123: ignored with the cache on).
4. They are taken from the embeddings of a text, or of random tokens, which the paper finds better than random numbers.
   A text that is longer than the prompt is cut, a shorter one repeated.
5. A prompt is there or not: its strength is 1 or 0. Several stand one behind the other.
6. The model stays the object that it was, with all names of its tensors; its class gets a part in front.

Legend: B rows, T positions, S source positions, P prompt vectors, D width, N documents.
Proved by tests/unit/adapt/test_soft_prompt.py, tests/parity/test_peft_prompt.py and tests/contract/test_adapters.py.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from ..core.config import Strict
from ..core.errors import UserError
from ..layers.memory import Memory
from ..layers.source import Source
from ..text.tokenizer import Tokenizer
from .adapter import Part, put_beside

LENGTH = 20
LR = 1e-2  # few numbers far from the loss need large steps; the paper takes 0.3 for T5's large embeddings


class Config(Strict):
    """Learned vectors in front of the input."""

    kind: Literal["soft_prompt"] = "soft_prompt"
    length: int | None = Field(
        None, gt=0, description=f"how many vectors; default: as many as the text, or {LENGTH}"
    )
    text: str | None = Field(None, min_length=1, description="what they start as; default: random tokens")


class SoftPrompt(Part):
    """The vectors [P, D] of one prompt."""

    def __init__(self, vectors_PD: Tensor) -> None:
        super().__init__()
        self.prompt = nn.Embedding(*vectors_PD.shape, _weight=vectors_PD.detach().clone())
        self._there = True

    def __len__(self) -> int:
        return self.prompt.num_embeddings

    @property
    def strength(self) -> float:  # type: ignore[override]
        """1 where the model reads the prompt, 0 where it does not."""
        return float(self._there)

    @strength.setter
    def strength(self, value: float) -> None:
        if value not in (0, 1):
            raise UserError(
                f"a soft prompt has no strength of {value}", why="the model reads it or does not",
                fix="take 0 or 1; adapters of other kinds can be turned up and down",
            )  # fmt: skip
        self._there = bool(value)

    def forward(self, x: Tensor, output: Tensor, module: nn.Module) -> Tensor:
        """Nothing becomes of the embeddings of real tokens; those of the prompt are `Reading`'s."""
        return output


def apply(model: nn.Module, config: Config, name: str, tokenizer: Tokenizer | None = None) -> nn.Module:
    """The same model, which reads the prompt in front of its input.

    Raises:
        UserError: the prompt leaves no room in the model, or its text has no tokens.
    """
    body = getattr(model, "body", model)
    embedding = _reader(body)
    ids_P = _first_ids(config, embedding, tokenizer)
    longest = body.max_length
    if longest is not None and len(ids_P) >= longest:
        raise UserError(
            f"a prompt of {len(ids_P)} vectors leaves no room for text", where=f"adapter {name}",
            why=f"the model reads at most {longest} positions", fix="take a shorter one",
        )  # fmt: skip
    with torch.no_grad():
        vectors_PD = embedding(ids_P.to(embedding.weight.device))
    put_beside(embedding, name, SoftPrompt(vectors_PD))
    _become(embedding, Reading)
    _become(body, Prompted)
    return model


def _reader(body: nn.Module) -> nn.Module:
    """The embedding of what the prompt stands in front of."""
    source = getattr(body, "source_embedding", None) if body.reads_source else None
    return body.embedding if source is None else source


def _first_ids(config: Config, embedding: nn.Module, tokenizer: Tokenizer | None) -> Tensor:
    """The tokens that the vectors start as, int64 [P]."""
    if config.text is None:
        known = (
            embedding.num_embeddings if tokenizer is None else min(tokenizer.size, embedding.num_embeddings)
        )
        special = set() if tokenizer is None else tokenizer.special_ids
        plain = torch.tensor([i for i in range(known) if i not in special])
        return plain[torch.randint(len(plain), (config.length or LENGTH,))]
    ids = [] if tokenizer is None else tokenizer.encode_plain(config.text)
    if not ids:
        raise UserError(
            "the prompt's text has no tokens", where=f"text={config.text!r}",
            why="there is no tokenizer" if tokenizer is None else None, fix="give a length instead",
        )  # fmt: skip
    length = config.length or len(ids)
    return torch.tensor((ids * (length // len(ids) + 1))[:length])


def _become(module: nn.Module, mixin: type[nn.Module]) -> None:
    """Puts `mixin` in front of the module's class, once."""
    if not isinstance(module, mixin):
        of = type(module)
        module.__class__ = type(f"{mixin.__name__}{of.__name__}", (mixin, of), {"__doc__": of.__doc__})


class Reading(nn.Module):
    """An embedding that knows the vectors of the prompts beside it by ids behind its vocabulary."""

    def ids(self) -> Tensor:
        """What stands for the vectors of the prompts that are read, int64 [P]."""
        first, found = self.num_embeddings, []
        for part in self.beside.values():
            if isinstance(part, SoftPrompt):
                if part.strength:
                    place = part.prompt.weight.device
                    found.append(torch.arange(first, first + len(part), device=place))
                first += len(part)
        return torch.cat(found) if found else torch.zeros(0, dtype=torch.long)

    def __call__(self, ids: Tensor) -> Tensor:
        """Vectors [..., D]; neither the table nor what else stands beside it is asked about a prompt's ids."""
        virtual = ids >= self.num_embeddings
        found = super().__call__(ids.clamp(max=self.num_embeddings - 1))
        if not bool(virtual.any()):
            return found
        prompts = [part.prompt.weight for part in self.beside.values() if isinstance(part, SoftPrompt)]
        vectors = nn.functional.embedding((ids - self.num_embeddings).clamp(min=0), torch.cat(prompts))
        return torch.where(virtual[..., None], vectors.to(found.dtype), found)


class Prompted(nn.Module):
    """A model that reads prompts in front of its input."""

    branches = False  # a prompt would stand in front of every branch

    @property
    def max_length(self) -> int | None:
        """Longest sequence in tokens, beside the prompts."""
        longest = super().max_length
        return None if longest is None else longest - len(_reader(self).ids())

    def forward(
        self, tokens_BT: Tensor, segments_BT: Tensor | None = None, memory: Memory | None = None,
        source: Source | None = None,
    ) -> Tensor:  # fmt: skip
        """Hidden vectors [B, T, D] of the tokens given; a memory has read the prompts already."""
        ids_P = _reader(self).ids()
        if self.reads_source:
            source = source if source is None or memory is not None else _behind(ids_P, source)
            return super().forward(tokens_BT, segments_BT, memory, source)
        if memory is not None or not len(ids_P):
            return super().forward(tokens_BT, segments_BT, memory)
        whole, layout, place_BT = inserted(ids_P, tokens_BT, segments_BT)
        hidden = super().forward(whole, None if segments_BT is None else layout)
        return hidden.gather(1, place_BT[..., None].expand(-1, -1, hidden.shape[-1]))

    def start(self, rows: int, length: int, source: Source | None = None) -> Memory:
        """A memory with room for `length` tokens that has read the prompts."""
        ids_P = _reader(self).ids()
        if source is not None:
            return super().start(rows, length, _behind(ids_P, source))
        memory = super().start(rows, length + len(ids_P))
        if len(ids_P):
            super().forward(ids_P.expand(rows, -1), None, memory)
        return memory


def _behind(ids_P: Tensor, source: Source) -> Source:
    return Source(*inserted(ids_P, source.tokens_BS, source.segments_BS)[:2])


def inserted(ids_P: Tensor, tokens_BT: Tensor, segments_BT: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Ids in front of every document of every row.

    Returns:
        tokens and segments of the longer rows, padded at their ends, and where in them the given tokens stand [B, T].
    """
    if segments_BT is None:
        segments_BT = torch.ones_like(tokens_BT)
    begins_BT = segments_BT != 0
    begins_BT[:, 1:] &= segments_BT[:, 1:] != segments_BT[:, :-1]
    before_BT = begins_BT.cumsum(dim=1)
    place_BT = torch.arange(tokens_BT.shape[1], device=tokens_BT.device) + len(ids_P) * before_BT
    longer = tokens_BT.shape[1] + len(ids_P) * max(1, int(before_BT.max()))
    shape = (tokens_BT.shape[0], longer)
    whole = tokens_BT.new_zeros(shape).scatter(1, place_BT, tokens_BT)
    layout = segments_BT.new_zeros(shape).scatter(1, place_BT, segments_BT)
    row_N, column_N = begins_BT.nonzero(as_tuple=True)
    room_NP = place_BT[row_N, column_N][:, None] + torch.arange(-len(ids_P), 0, device=tokens_BT.device)
    whole[row_N[:, None], room_NP] = ids_P
    layout[row_N[:, None], room_NP] = segments_BT[row_N, column_N][:, None]
    return whole, layout, place_BT
