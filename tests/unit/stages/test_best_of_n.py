"""Imitating the best of n: which answers are kept, and that nothing but they are learned."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError

from lmcraft.data.batch import IGNORE, Batch
from lmcraft.models import decoder
from lmcraft.models import model as models
from lmcraft.stages import best_of_n


def stage(n: int) -> best_of_n.BestOfN:
    return best_of_n.BestOfN(best_of_n.Config(reward="length", n=n))


def test_the_best_of_each_group_is_kept():
    """A failure would mean that an answer to another prompt is learned, or one that is not the best."""
    scores_B = torch.tensor([1.0, 3.0, 2.0, -5.0, -7.0, -6.0, 4.0, 4.0, 4.0])
    kept_P = stage(3).keep(scores_B)
    assert kept_P.tolist() == [1, 3, 6] and kept_P.dtype == torch.int64


def test_one_answer_is_no_choice():
    """A failure would mean that a policy imitates itself, and calls it learning."""
    with pytest.raises(ValidationError):
        best_of_n.Config(reward="length", n=1)


def test_its_loss_is_the_cross_entropy_of_the_answers():
    """A failure would mean that prompts or padding are imitated too, or that the loss is a mean."""
    torch.manual_seed(0)
    model = models.build(decoder.Config(vocab=6, layers=1, width=16, heads=2, context=8))
    tokens_BT = torch.tensor([[5, 1, 3, 0], [5, 2, 1, 2]])
    targets_BT = torch.tensor([[IGNORE, 3, 5, IGNORE], [IGNORE, 1, 2, 4]])
    segments_BT = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]])
    found = stage(2).loss(model, Batch(tokens_BT, targets_BT, segments_BT))
    with torch.no_grad():
        logits_BTV = model.head(model(tokens_BT, segments_BT))
        right = F.cross_entropy(logits_BTV.flatten(0, 1), targets_BT.flatten(), reduction="sum")
    torch.testing.assert_close(found.detach(), right)


def test_how_much_better_the_best_are_is_told():
    """A failure would mean that the gain of choosing is reported as that of learning."""
    made = stage(2)
    assert made.credit(None, torch.tensor([1.0, 3.0])) == {} and not made.needs_reference
    made.after({"score": 0.5}, 4)
    assert made.told() == {"best_score": 2.0, "gain": 1.5}
