"""Studies train with the one loop, on batches that depend on the seed and the place alone."""

from __future__ import annotations

import os
import signal

import pytest
import torch

from lmcraft.data.batch import IGNORE
from lmcraft.models import rnn
from lmcraft.studies import stream
from lmcraft.train.interrupt import Interrupted


def counting(generator: torch.Generator, rows: int):
    """The next token is one more than this one, modulo 7."""
    first_B1 = torch.randint(0, 7, (rows, 1), generator=generator)
    tokens_BT = (first_B1 + torch.arange(6)) % 7
    return stream.only(tokens_BT, (tokens_BT + 1) % 7, torch.arange(6).expand(rows, 6) > 0)


def test_batches_are_a_function_of_seed_and_place() -> None:
    """If this failed, a study would give other numbers when it is run again, or measure on what it trained."""
    source = stream.Stream(counting, 50, seed=3)
    first, second = source.next(), source.next()
    again = stream.Stream(counting, 50, seed=3)
    assert torch.equal(first.tokens_BT, again.next().tokens_BT)
    assert torch.equal(second.tokens_BT, again.next().tokens_BT) and again.read == 100
    others = [second, stream.Stream(counting, 50, seed=4).next(), stream.held_out(counting, 50, 3)]
    assert not any(torch.equal(first.tokens_BT, other.tokens_BT) for other in others)
    assert (first.targets_BT[:, 0] == IGNORE).all() and first.count == 50 * 5


def test_a_model_learns_and_can_be_measured_on_the_way() -> None:
    """If this failed, studies would measure models that were never trained."""
    model = stream.fresh(rnn.Config(cell="rnn", vocab=7, layers=1, width=16), seed=0)
    batch = stream.held_out(counting, 40, 0)
    shares = []
    for step in stream.fit(model, counting, 60, 16, 1e-2, seed=0, label="count"):
        if step.number in (1, 60):
            shares.append(float(stream.hits(model, batch).sum()) / batch.count)
    assert shares[0] < 0.9 and shares[1] == 1
    assert not stream.hits(model, batch)[:, 0].any()


def test_weights_depend_on_the_seed_alone() -> None:
    """If this failed, the model trained second would start from other weights than alone."""
    config = rnn.Config(vocab=7, layers=1, width=8)
    first = stream.fresh(config, 5).embedding.weight
    torch.rand(3)
    assert torch.equal(first, stream.fresh(config, 5).embedding.weight)
    assert not torch.equal(first, stream.fresh(config, 6).embedding.weight)


def test_an_interrupted_study_says_that_it_starts_over() -> None:
    """If this failed, a user would believe that nothing was lost."""
    model = stream.fresh(rnn.Config(vocab=7, layers=1, width=8), seed=0)
    with pytest.raises(Interrupted) as stopped:
        for _ in stream.fit(model, counting, 50, 4, 1e-3, seed=0, label="count"):
            os.kill(os.getpid(), signal.SIGINT)
    assert stopped.value.exit_code == 130 and "starts over" in str(stopped.value)
    assert "after step 1 of 50 of count" in str(stopped.value) and "saved" not in str(stopped.value)
