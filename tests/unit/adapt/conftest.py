"""Tiny models of every kind, and what an adapter's own test asks of them: logits, hashes, chosen numbers."""

from __future__ import annotations

import hashlib

import pytest
import torch
from torch import nn

from lmcraft.core import find
from lmcraft.layers.source import Source
from lmcraft.models import heads
from lmcraft.models import model as models
from lmcraft.text.tokenizer import SPECIALS, Tokenizer

VOCAB = 61
SMALL = {"vocab": VOCAB, "context": 48, "layers": 2, "width": 32, "heads": 4}


class Tiny:
    """Models, and the same question to all of them."""

    vocab = VOCAB

    def build(self, kind: str = "decoder", **settings) -> nn.Module:
        """A frozen model in evaluation mode; `decoder+classes` and the like have another head."""
        torch.manual_seed(0)
        body, _, task = kind.partition("+")
        config = find.module("models", body).Config
        known = {name: value for name, value in SMALL.items() if name in config.model_fields}
        model = models.build(config(**(known | settings)))
        if task:
            labels = {"labels": ("a", "b", "c")} if task != "embedding" else {}
            model = heads.around(model, task=task, **labels)
        return model.requires_grad_(False).eval()

    def tokens(self, rows: int = 3, length: int = 12, seed: int = 1) -> torch.Tensor:
        return torch.randint(0, VOCAB, (rows, length), generator=torch.Generator().manual_seed(seed))

    def logits(self, model: nn.Module, tokens_BT=None, segments_BT=None, memory=None) -> torch.Tensor:
        """Logits of these tokens; who reads a source reads fixed ones."""
        tokens_BT = self.tokens() if tokens_BT is None else tokens_BT
        if model.reads_source and memory is None:
            return model.head(model(tokens_BT, segments_BT, source=self.source(len(tokens_BT))))
        return model.head(model(tokens_BT, segments_BT, memory))

    def source(self, rows: int) -> Source:
        layout = torch.ones(rows, 7, dtype=torch.long)
        layout[-1, 4:] = 0
        return Source(self.tokens(rows, 7, seed=5), layout)

    def scatter(self, model: nn.Module, std: float = 0.3) -> nn.Module:
        """Numbers as if after training in everything that is trained."""
        generator = torch.Generator().manual_seed(3)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter += std * torch.randn(parameter.shape, generator=generator)
        return model

    def hashes(self, model: nn.Module) -> dict[str, str]:
        """A digest of every tensor of the base."""
        return {
            name: hashlib.sha256(tensor.reshape(-1).view(torch.uint8).numpy().tobytes()).hexdigest()
            for name, tensor in model.state_dict().items()
            if ".beside." not in name
        }

    def step(self, model: nn.Module) -> list[str]:
        """One step of training; the names of what has a gradient."""
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=0.01, weight_decay=0.0)
        for _ in range(2):  # what starts at zero hides the gradient of what stands before it
            optimizer.zero_grad()
            self.logits(model).log_softmax(-1)[..., 1].sum().neg().backward()
            optimizer.step()
        assert all(p.grad is None for p in model.parameters() if not p.requires_grad)
        kept = {id(parameter) for parameter in optimizer.state}
        assert kept <= {id(parameter) for parameter in trained}
        return [name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().max() > 0]


@pytest.fixture(scope="session")
def tiny() -> Tiny:
    return Tiny()


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(["the cat sat on the mat and the dog sat on the cat"] * 3, 280, SPECIALS)
