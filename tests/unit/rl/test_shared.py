"""A prompt that is read once gives what it gives when it is read with every answer."""

from __future__ import annotations

import pytest
import torch

from lmcraft.adapt import entries, soft_prompt
from lmcraft.data.batch import IGNORE
from lmcraft.generate.engine import Completion
from lmcraft.models import decoder, rnn
from lmcraft.models import model as models
from lmcraft.rl import episodes, shared

SIZES = {"vocab": 30, "context": 64, "layers": 2, "width": 32, "heads": 2}
FAMILIES = {
    "llama": {},
    "gpt2": {"positions": "learned", "norm": "layernorm", "mlp": "gelu", "bias": "all"},
    "sinusoids": {"positions": "sinusoidal"},
    "window": {"window": 4},
    "gemma": {"norm": "sandwich", "window": 5, "attention": {"full_layers": [0], "local_rope_base": 100.0}},
    "stretched": {"rope": {"kind": "linear", "factor": 2.0}},
}


def net(settings: dict) -> torch.nn.Module:
    torch.manual_seed(0)
    return models.build(decoder.Config(**SIZES, **settings)).double().eval()


def rows(prompts: list[int], answers: list[int], seed: int = 1) -> episodes.Batch:
    """Three prompts or fewer, by their lengths, and answers of these lengths, dealt out in turn."""
    draw = torch.Generator().manual_seed(seed)

    def ids(length: int) -> list[int]:
        return torch.randint(30, (length,), generator=draw).tolist()

    asked = [ids(length) for length in prompts]
    said = [Completion("", ids(length), [], "stop") for length in answers]
    given = [asked[place % len(asked)] for place in range(len(said))]
    return episodes.batch(episodes.Prompts(given, None, ["a"] * len(said)), said)


def test_branches_by_hand():
    """A failure would mean that an answer is read at another place, or is not found again."""
    prompts = episodes.Prompts([[7, 8, 9]] * 2, None, ["a"] * 2)
    said = [Completion("", ids, [], "stop") for ids in ([1, 2], [3, 4, 5])]
    tokens_GW, segments_GW, here_P, there_P = shared._Rows(episodes.batch(prompts, said)).merged()
    assert tokens_GW.tolist() == [[7, 8, 9, 1, 9, 3, 4]]
    assert segments_GW.tolist() == [[1, 1, -1, -1, -2, -2, -2]]
    assert here_P.tolist() == [2, 3, 10, 11, 12] and there_P.tolist() == [2, 3, 4, 5, 6]  # rows are 8 wide


@pytest.mark.parametrize("family", FAMILIES)
def test_hidden_vectors_and_gradients_are_what_they_were(family):
    """A failure would mean that answers see one another, or stand at other positions, and GRPO trains on noise."""
    batch = rows([9, 14, 12], [5, 3, 6, 1, 4, 7, 2, 5, 3])
    asked_BT = batch.targets_BT != IGNORE
    found, gradients = [], []
    for read in (shared.hidden, lambda model, batch: model(batch.tokens_BT, batch.segments_BT)):
        model = net(FAMILIES[family])
        hidden_BTD = read(model, batch)
        hidden_BTD[asked_BT].sin().sum().backward()
        found.append(hidden_BTD[asked_BT])
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    assert shared._Rows(batch).cheaper(SIZES["width"])
    torch.testing.assert_close(*found, rtol=0, atol=1e-12)
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-11)


def read_widths(model: torch.nn.Module, batch: episodes.Batch) -> list[tuple[int, ...]]:
    """The sizes of what the model was given."""
    seen = []
    model.register_forward_pre_hook(lambda _, given: seen.append(tuple(given[0].shape)))
    shared.hidden(model, batch)
    return seen


def test_rows_are_merged_where_that_is_cheaper():
    """A failure would mean that nothing is gained, or that eight long answers pay for scores that nobody looks at."""
    assert read_widths(net({}), rows([20], [4] * 8)) == [(1, 19 + 8 * 4)]
    long, apart = rows([4], [50] * 8), rows([9, 14], [5, 5])
    for batch in (long, apart):
        assert read_widths(net({}), batch) == [tuple(batch.tokens_BT.shape)]


def test_what_cannot_branch_is_left_alone():
    """A failure would mean wrong answers where positions depend on a text's length, or where a state goes on."""
    torch.manual_seed(0)
    dynamic = net({"rope": {"kind": "dynamic", "factor": 2.0}})
    prompted = entries.apply(net({}), [soft_prompt.Config(length=3)], {}, None)
    recurrent = models.build(rnn.Config(vocab=30, layers=1, width=16))
    batch = rows([20], [4] * 8)
    for model in (dynamic, prompted, recurrent):
        assert (8, batch.tokens_BT.shape[1]) in read_widths(model, batch)
    one_token = rows([1], [4] * 8)
    assert read_widths(net({}), one_token) == [tuple(one_token.tokens_BT.shape)]
