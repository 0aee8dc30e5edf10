"""The long-memory study shows the symbol where it says, and measures the gradient where it says."""

from __future__ import annotations

import torch

from lmcraft.data.batch import IGNORE
from lmcraft.models.model import count_parameters
from lmcraft.studies import long_memory, stream

SMALL = long_memory.Config(distance=40, rnn_width=16, lstm_width=8, attention_width=8, gradient_rows=4)


def test_the_symbol_stands_at_its_distance() -> None:
    """If this failed, the horizontal axis of every figure of the study would be wrong."""
    for distance in (None, 3, 7, 40):
        batch = long_memory.task(SMALL, stream.generator(0, 0), 500, distance)
        symbols_BT = batch.tokens_BT < SMALL.symbols * 3
        assert (symbols_BT.sum(dim=1) == 3).all() and (batch.targets_BT[:, :-3] == IGNORE).all()
        assert torch.equal(batch.tokens_BT[symbols_BT], batch.targets_BT[:, -3:].flatten())
        assert (batch.targets_BT[:, -3:] // SMALL.symbols == torch.arange(3)).all()
        assert (batch.tokens_BT[:, -3:] == batch.tokens_BT.max() - torch.tensor([2, 1, 0])).all()
        distances_B = 40 - symbols_BT.int().argmax(dim=1)
        if distance is None:
            assert (
                distances_B.min() == 3 and distances_B.max() > 35 and (distances_B < 13).float().mean() > 0.4
            )
        else:
            assert (distances_B == distance).all()


def test_an_untrained_elman_network_loses_the_gradient_exponentially_and_a_transformer_does_not() -> None:
    """If this failed, the study's central claim would not hold even where theory is exact."""
    decay = {}
    for name, shape in long_memory.models(SMALL).items():
        near, half, far = long_memory.gradients(stream.fresh(shape, 0), SMALL, [4, 20, 40])
        decay[name] = (half / near, far / near)
    assert decay["rnn"][1] < 1e-5 and decay["rnn"][1] < 100 * decay["rnn"][0] ** 2
    assert decay["attention"][1] > 1e-2 and decay["lstm"][1] > 100 * decay["rnn"][1]


def test_the_gradient_is_that_of_finite_differences() -> None:
    """If this failed, another quantity than the gradient of the answer at the symbol would be drawn."""
    model = stream.fresh(long_memory.models(SMALL)["rnn"], 0).double()
    batch = stream.held_out(long_memory._at(SMALL, 4), 1, 0)
    found = float(long_memory._arriving(model, batch, 4)[0].detach())

    def loss(embedded_BTD: torch.Tensor) -> torch.Tensor:
        handle = model.embedding.register_forward_hook(lambda *_: embedded_BTD)
        hidden_BTD = model(batch.tokens_BT)
        handle.remove()
        losses_V = model.head(hidden_BTD[0, -1]).log_softmax(dim=-1)
        return -losses_V[batch.targets_BT[0, -1]]

    embedded_BTD = model.embedding(batch.tokens_BT).detach()
    slopes = []
    for place in range(embedded_BTD.shape[-1]):
        bump_BTD = torch.zeros_like(embedded_BTD)
        bump_BTD[0, -5, place] = 1e-5
        with torch.no_grad():
            slopes.append(float(loss(embedded_BTD + bump_BTD) - loss(embedded_BTD - bump_BTD)) / 2e-5)
    with torch.no_grad():
        chance_V = model.head(model(batch.tokens_BT)[0, -1]).softmax(dim=-1)
    chance_V[batch.targets_BT[0, -1]] -= 1
    at_answer = float((model.output.weight.detach().T @ chance_V).norm())
    assert abs(found - float(torch.tensor(slopes).norm()) / at_answer) < 1e-6


def test_the_models_are_of_one_size() -> None:
    """If this failed, one of them would remember more because it is larger."""
    sizes = [
        count_parameters(stream.fresh(shape, 0))
        for shape in long_memory.models(long_memory.Config()).values()
    ]
    assert max(sizes) < 1.15 * min(sizes)
