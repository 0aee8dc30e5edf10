"""Documents of packed rows as rows of their own: found, taken, turned round, and put back."""

from __future__ import annotations

import pytest
import torch

from lmcraft.layers.documents import Documents, names

PACKED = torch.tensor([[1, 1, 0, 2, 2, 2], [0, 0, 1, 0, 3, 0], [0, 0, 0, 0, 0, 0]])
PLAIN = torch.tensor([[1, 1, 1], [1, 0, 0], [1, 1, 0]])


def numbers(segments_BT: torch.Tensor) -> torch.Tensor:
    """A different number at every position, [B, T, 1]."""
    return torch.arange(1.0, segments_BT.numel() + 1).view(*segments_BT.shape, 1)


def test_each_document_becomes_a_row():
    """A failure would mean that a network reads parts of two documents as one."""
    documents = Documents(PACKED, names(PACKED))
    assert documents.lengths_N.tolist() == [2, 3, 1, 1]
    taken = documents.take(numbers(PACKED))[..., 0]
    assert taken.tolist() == [[1, 2, 0], [4, 5, 6], [9, 0, 0], [11, 0, 0]]
    assert documents.real_NT.tolist() == [
        [True, True, False],
        [True] * 3,
        [True, False, False],
        [True, False, False],
    ]


@pytest.mark.parametrize("segments_BT", [PACKED, PLAIN], ids=["packed", "plain"])
def test_what_was_taken_can_be_put_back(segments_BT):
    """A failure would mean that a target is scored at another target's position."""
    documents = Documents(segments_BT, names(segments_BT))
    back = documents.put(documents.take(numbers(segments_BT)))
    real_BT = segments_BT != 0
    assert torch.equal(back[real_BT], numbers(segments_BT)[real_BT])


def test_documents_are_found_by_their_name():
    """A failure would mean that a target reads another pair's source."""
    sources_BS = torch.tensor([[2, 2, 9, 0], [3, 1, 1, 1], [5, 0, 0, 0]])
    documents = Documents(sources_BS, names(PACKED))
    assert documents.lengths_N.tolist() == [0, 2, 3, 1]
    assert documents.take(numbers(sources_BS))[..., 0].tolist() == [
        [0, 0, 0],
        [1, 2, 0],
        [6, 7, 8],
        [5, 0, 0],
    ]


def test_plain_rows_are_not_copied():
    """A failure would mean that ordinary batches pay for packing that they do not have."""
    documents = Documents(PLAIN, names(PLAIN))
    x_BTD = numbers(PLAIN)
    assert documents.take(x_BTD) is x_BTD and documents.put(x_BTD) is x_BTD
    assert documents.lengths_N.tolist() == [3, 1, 2]


@pytest.mark.parametrize("segments_BT", [PACKED, PLAIN], ids=["packed", "plain"])
def test_turning_round_twice_changes_nothing(segments_BT):
    """A failure would mean that the backward direction's vectors belong to other tokens."""
    documents = Documents(segments_BT, names(segments_BT))
    x_NTD = documents.take(numbers(segments_BT))
    once = documents.reversed(x_NTD)
    assert torch.equal(documents.reversed(once), x_NTD)
    for row, turned, length in zip(x_NTD, once, documents.lengths_N.tolist(), strict=True):
        assert torch.equal(turned[:length], row[:length].flip(0))


def test_the_last_vector_of_each_document():
    """A failure would mean that a decoder begins with what the encoder made of padding."""
    documents = Documents(torch.tensor([[1, 1, 0], [0, 0, 0], [1, 1, 1]]), names(torch.ones(3, 1)))
    before = torch.full((3, 1), -1.0)
    taken = documents.take(numbers(torch.zeros(3, 3)))
    assert documents.last(taken, before)[:, 0].tolist() == [2, -1, 9]


def test_a_batch_of_padding_has_no_documents():
    """A failure would mean that an empty micro-batch stops the training."""
    empty_BT = torch.zeros(2, 3, dtype=torch.long)
    documents = Documents(empty_BT, names(empty_BT))
    taken = documents.take(numbers(empty_BT))
    assert taken.shape == (0, 1, 1)
    assert torch.equal(documents.put(taken), torch.zeros(2, 3, 1))
