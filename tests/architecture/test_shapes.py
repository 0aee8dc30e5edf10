"""Names carry shapes: a tensor called q_BHTC has four dimensions, and a letter means one size in one call."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import torch

import lmcraft
from lmcraft.data.batch import IGNORE, Batch
from lmcraft.layers.source import Source
from lmcraft.models import decoder, encdec, encoder, heads, rnn, seq2seq
from lmcraft.models import model as models
from lmcraft.stages import embed
from lmcraft.train.loss import summed_cross_entropy

PACKAGE = str(Path(lmcraft.__file__).parent)
NAMED = re.compile(r"[a-z_]\w*_([A-Z0-9]+)$")
MODELS = {
    "rotary": decoder.Config(
        vocab=31, context=24, layers=2, width=32, heads=4, kv_heads=2, window=5, qk_norm=True
    ),
    "learned": decoder.Config(
        vocab=31,
        context=24,
        layers=2,
        width=32,
        heads=4,
        positions="learned",
        norm="layernorm",
        mlp="gelu",
        bias="all",
    ),
    "stretched": decoder.Config(
        vocab=31,
        context=24,
        layers=2,
        width=32,
        heads=4,
        norm="sandwich",
        mlp="geglu",
        qk_norm=True,
        window=5,
        rope={"kind": "dynamic", "factor": 4},
        attention={"full_layers": [1], "local_rope_base": 100.0},
    ),
    "sinusoidal": decoder.Config(vocab=31, context=24, layers=1, width=32, heads=2, positions="sinusoidal"),
    "lstm": rnn.Config(vocab=31, layers=2, width=32),
    "rnn": rnn.Config(vocab=31, layers=1, width=32, cell="rnn", residual=False),
    "seq2seq": seq2seq.Config(vocab=31, layers=2, width=32, attention="none"),
    "additive": seq2seq.Config(vocab=31, layers=2, width=32, attention_width=20, cell="rnn"),
    "encdec": encdec.Config(vocab=31, layers=2, width=32, heads=4),
    "relative": encdec.Config(vocab=31, layers=1, width=32, heads=2, positions="relative", placement="post"),
}


def mistakes_in(frame) -> list[str]:
    """Names in a finished call whose tensors contradict them."""
    sizes: dict[str, tuple[int, str]] = {}
    found = []
    for name, value in frame.f_locals.items():
        match = NAMED.match(name)
        if match is None or not isinstance(value, torch.Tensor):
            continue
        letters = match[1]
        if len(letters) != value.ndim:
            found.append(f"{frame.f_code.co_qualname}: {name} has {value.ndim} dimensions")
            continue
        for letter, size in zip(letters, value.shape, strict=True):
            if letter.isdigit():
                if size != int(letter):
                    found.append(f"{frame.f_code.co_qualname}: {name} has {size} where it says {letter}")
            elif sizes.setdefault(letter, (size, name))[0] != size:
                found.append(f"{frame.f_code.co_qualname}: {letter} is {sizes[letter]} and {size} in {name}")
    return found


def watched(action) -> tuple[list[str], int]:
    """Mistakes in every call of the package that `action` makes, and how many named tensors were looked at."""
    found: list[str] = []
    looked = 0

    def profile(frame, event, _):
        nonlocal looked
        if event == "return" and frame.f_code.co_filename.startswith(PACKAGE):
            looked += sum(bool(NAMED.match(name)) for name in frame.f_locals)
            found.extend(mistakes_in(frame))

    sys.setprofile(profile)
    try:
        action()
    finally:
        sys.setprofile(None)
    return sorted(set(found)), looked


@pytest.mark.parametrize("name", MODELS)
def test_names_tell_the_shapes(name):
    """A wrong suffix would mislead every reader of the mathematics."""
    torch.manual_seed(0)
    model = models.build(MODELS[name])
    tokens_BT = torch.randint(0, 31, (3, 12))
    segments_BT = torch.tensor([[1] * 5 + [2] * 7, [1] * 12, [1] * 9 + [0] * 3])
    targets_BT = torch.where(segments_BT > 0, tokens_BT, IGNORE)
    packed_BS = torch.tensor([[1] * 4 + [2] * 5, [1] * 9, [1] * 2 + [0] * 7])
    reads = model.reads_source
    packed = {"source": Source(torch.randint(0, 31, (3, 9)), packed_BS)} if reads else {}
    plain = {"source": Source.of(torch.randint(0, 31, (3, 9)))} if reads else {}

    def action() -> None:
        summed_cross_entropy(model, model(tokens_BT, segments_BT, **packed), targets_BT).backward()
        memory = model.start(3, 20, **plain)
        whole_BT = torch.tensor([[1] * 6, [1] * 4 + [0] * 2, [1] * 5 + [0]])
        with torch.no_grad():
            model.head(model(tokens_BT[:, :6], whole_BT, memory))
            model.head(model(tokens_BT[:, 6:7], None, memory))

    found, looked = watched(action)
    assert looked > 20
    assert not found, "\n".join(found)


ENCODERS = {
    "bert": ({"positions": "learned", "placement": "post", "token_types": 2, "embedding_norm": True}, {}),
    "classes": ({}, {"task": "classes", "labels": ("a", "b", "c"), "pooling": "cls", "pooler": True}),
    "tags": ({"norm": "rmsnorm", "mlp": "geglu"}, {"task": "tags", "labels": ("O", "B")}),
    "vectors": ({"positions": "sinusoidal"}, {"task": "embedding"}),
}


@pytest.mark.parametrize("name", ENCODERS)
def test_names_tell_the_shapes_of_encoders(name):
    """A wrong suffix would mislead every reader of the mathematics."""
    torch.manual_seed(0)
    settings, head = ENCODERS[name]
    model = models.build(encoder.Config(vocab=31, context=24, layers=2, width=32, heads=4, **settings))
    model = heads.around(model, **head) if head else model
    tokens_BT = torch.randint(0, 31, (4, 12))
    segments_BT = torch.tensor([[1] * 5 + [2] * 7, [1] * 12, [1] * 9 + [0] * 3, [1] * 12])
    targets_BT = torch.where(segments_BT > 0, 1, IGNORE)
    source = Source(torch.randint(0, 31, (4, 9)), torch.tensor([[1] * 9] * 4))

    def action() -> None:
        summed_cross_entropy(model, model(tokens_BT, segments_BT), targets_BT).backward()
        if name == "vectors":
            batch = Batch(tokens_BT, targets_BT, segments_BT, source=source)
            embed.build(embed.Config(group=3)).loss(model, batch).backward()

    found, looked = watched(action)
    assert looked > 20
    assert not found, "\n".join(found)


def test_the_watch_sees_mistakes():
    """If it saw none, the test above could not fail."""

    def wrong(q_BT: torch.Tensor, k_BT: torch.Tensor, v_B1: torch.Tensor) -> int:
        return len(mistakes_in(sys._getframe()))

    assert wrong(torch.zeros(2, 3), torch.zeros(2, 3), torch.zeros(2, 1)) == 0
    assert wrong(torch.zeros(2, 3), torch.zeros(2, 4), torch.zeros(2, 1)) == 1
    assert wrong(torch.zeros(2), torch.zeros(2, 4), torch.zeros(2, 2)) == 2
