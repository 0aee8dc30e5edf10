"""The parallel study compares models that compute the same things at the same size."""

from __future__ import annotations

import pytest
import torch

from lmcraft.models.model import count_parameters
from lmcraft.studies import parallel

CONFIG = parallel.Config(
    lengths=(4, 8), rows=2, vocab=11, width=16, heads=2, layers=1, lstm_width=8, lstm_layers=2
)


def test_the_fused_kernel_computes_what_our_layers_compute() -> None:
    """If this failed, the fused LSTM would be another network, and faster for that."""
    models = parallel.build(CONFIG)
    ours, fused = models["lstm"], models["fused"]
    for layer, other in zip(ours.layers, fused.layers, strict=True):
        with torch.no_grad():
            other.lstm.weight_ih_l0.copy_(layer.input.weight)
            other.lstm.weight_hh_l0.copy_(layer.hidden.weight)
            other.lstm.bias_ih_l0.copy_(layer.input.bias)
            other.lstm.bias_hh_l0.zero_()
    tokens_BT = torch.randint(0, 11, (2, 9), generator=torch.Generator().manual_seed(0))
    memories = [model.start(2, 9) for model in (ours, fused)]
    with torch.no_grad():
        for part in (tokens_BT[:, :6], tokens_BT[:, 6:7], tokens_BT[:, 7:]):
            made = [model(part, None, memory) for model, memory in zip((ours, fused), memories, strict=True)]
            assert torch.allclose(*made, atol=1e-5)


def test_the_models_are_of_one_size() -> None:
    """If this failed, one of them would be faster because it is smaller."""
    sizes = [count_parameters(model) for model in parallel.build(parallel.Config()).values()]
    assert max(sizes) < 1.1 * min(sizes)


def test_speeds_and_ratios_are_what_the_seconds_say() -> None:
    """If this failed, the claim would name the inverse, or mix lengths, models or repetitions."""
    seconds = {
        (work, name, length): [1.0, 2.0, 4.0] if name == "lstm" else [0.5, 0.5, 0.5]
        for work in parallel.WORK
        for name in parallel.NAMES
        for length in CONFIG.lengths
    }
    assert parallel.speeds(CONFIG, seconds, "training", "lstm") == [[8, 4, 2], [16, 8, 4]]
    assert parallel.speeds(CONFIG, seconds, "writing", "fused")[0] == [2 * CONFIG.written / 0.5] * 3
    assert parallel.ratio(CONFIG, seconds, "training", "attention", "lstm", 8) == [4, 2, 8]


@pytest.mark.parametrize("name", parallel.NAMES)
def test_writing_goes_on_from_the_prompt(name: str) -> None:
    """If this failed, the time of a token after a long prompt would be that of a token after none."""
    model = parallel.build(CONFIG)[name]
    tokens_BT = torch.randint(0, 11, (2, 9), generator=torch.Generator().manual_seed(0))
    taken, memory = parallel.read(model, tokens_BT, 4)
    assert taken > 0 and parallel.write(model, tokens_BT, 4) > 0 and parallel.train(model, tokens_BT, 0) > 0
    with torch.no_grad():
        after = model(tokens_BT[:, -1:], None, memory)[:, -1]
        assert torch.allclose(after, model(tokens_BT)[:, -1], atol=1e-5)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_chain_of_an_lstm_grows_with_the_tokens_and_that_of_a_transformer_does_not() -> None:
    """If this failed, what a parallel machine gains would be counted wrongly."""
    models = parallel.build(CONFIG)
    short, long = (
        {name: parallel.chain(models[name], length) for name in ("attention", "lstm")} for length in (4, 8)
    )
    assert short["attention"] == long["attention"] > 10
    a_step = (long["lstm"] - short["lstm"]) / 4
    assert a_step >= 4 and parallel.chain(models["lstm"], 12) == long["lstm"] + 4 * a_step
