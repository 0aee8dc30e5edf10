"""The summed cross entropy with its hand-written gradient, against F.cross_entropy in float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from lmcraft.data.batch import IGNORE
from lmcraft.train import loss as losses
from lmcraft.train.loss import cross_entropies, summed_cross_entropy


class Head:
    """Only the part of a model that the loss uses."""

    def __init__(self, weight_VD: torch.Tensor) -> None:
        self.weight_VD = weight_VD

    def head(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden @ self.weight_VD.T


def case(dtype=torch.float64, rows=3, length=11, width=8, vocab=29, scale=1.0):
    draw = torch.Generator().manual_seed(0)
    hidden_BTD = (torch.randn(rows, length, width, generator=draw, dtype=torch.float64) * scale).to(dtype)
    weight_VD = torch.randn(vocab, width, generator=draw, dtype=torch.float64).to(dtype)
    targets_BT = torch.randint(0, vocab, (rows, length), generator=draw)
    targets_BT[0, :4] = IGNORE
    targets_BT[2] = IGNORE
    return hidden_BTD.requires_grad_(), weight_VD.requires_grad_(), targets_BT


def reference(hidden_BTD, weight_VD, targets_BT, reduction="sum"):
    logits_NV = (hidden_BTD @ weight_VD.T).flatten(0, 1)
    return F.cross_entropy(logits_NV, targets_BT.flatten(), ignore_index=IGNORE, reduction=reduction)


@pytest.mark.parametrize("chunk", [1 << 23, 29 * 4, 1], ids=["one", "some", "a-row"])
def test_loss_and_gradients_equal_torch_in_float64(chunk, monkeypatch):
    """A difference would mean that every model is trained on another loss than the one that is shown."""
    monkeypatch.setattr(losses, "HEAD_ELEMENTS", chunk)
    ours, theirs = case(), case()
    value, expected = summed_cross_entropy(Head(ours[1]), ours[0], ours[2]), reference(*theirs)
    assert value.dtype == torch.float64
    torch.testing.assert_close(value, expected, rtol=1e-13, atol=0)
    (value / 7).backward()
    (expected / 7).backward()
    for mine, other in zip(ours[:2], theirs[:2], strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-12, atol=1e-14)


def test_gradient_equals_finite_differences():
    """A difference would mean that loss and gradient do not belong together, whatever torch says."""
    hidden_BTD, weight_VD, targets_BT = case(rows=3, length=6, width=3, vocab=5)

    def value() -> torch.Tensor:
        return summed_cross_entropy(Head(weight_VD), hidden_BTD, targets_BT)

    value().backward()
    for tensor in (hidden_BTD, weight_VD):
        flat, step = tensor.detach().view(-1), 1e-6
        for index in range(len(flat)):
            kept = float(flat[index])
            with torch.no_grad():
                flat[index] = kept + step
                above = value()
                flat[index] = kept - step
                below = value()
                flat[index] = kept
            slope = float((above - below) / (2 * step))
            assert float(tensor.grad.view(-1)[index]) == pytest.approx(slope, abs=1e-7)


def test_a_second_backward_is_refused():
    """A failure would mean that a second pass silently trains on a gradient scaled twice."""
    hidden_BTD, weight_VD, targets_BT = case()
    value = summed_cross_entropy(Head(weight_VD), hidden_BTD, targets_BT)
    (value / 2).backward(retain_graph=True)
    with pytest.raises(AssertionError, match="only once"):
        (value / 2).backward()


@pytest.mark.parametrize("dtype,rtol", [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_low_precision_stays_near(dtype, rtol):
    """A larger difference would mean that softmax is computed in half precision (trap 17)."""
    ours = case(dtype)
    value = summed_cross_entropy(Head(ours[1]), ours[0], ours[2])
    assert value.dtype == torch.float32
    exact = [t.detach().double() if t.is_floating_point() else t for t in ours]
    # the logits themselves are of low precision; only what comes after them is measured
    logits = (ours[0] @ ours[1].T).detach().double()
    expected = F.cross_entropy(logits.flatten(0, 1), exact[2].flatten(), ignore_index=IGNORE, reduction="sum")
    torch.testing.assert_close(value.double(), expected, rtol=1e-6, atol=0)
    value.backward()
    hidden_BTD = exact[0].requires_grad_()
    reference(hidden_BTD, exact[1], exact[2]).backward()
    error = (ours[0].grad.double() - hidden_BTD.grad).abs().max() / hidden_BTD.grad.abs().max()
    assert error < rtol


def test_large_logits_do_not_overflow():
    """A failure would mean that a confident model stops training with NaN."""
    hidden_BTD, weight_VD, targets_BT = case(torch.float32, scale=1e4)
    value = summed_cross_entropy(Head(weight_VD), hidden_BTD, targets_BT)
    value.backward()
    assert value.isfinite() and hidden_BTD.grad.isfinite().all()
    torch.testing.assert_close(value, reference(hidden_BTD, weight_VD, targets_BT), rtol=1e-5, atol=0)


def test_no_target_gives_zero_and_zero_gradient():
    """A NaN would mean that one row of mere padding spoils a whole step."""
    hidden_BTD, weight_VD, targets_BT = case()
    value = summed_cross_entropy(Head(weight_VD), hidden_BTD, torch.full_like(targets_BT, IGNORE))
    value.backward()
    assert float(value.detach()) == 0.0 and (hidden_BTD.grad == 0).all()


def test_positions_without_target_get_no_gradient():
    """A gradient there would mean that prompts are trained."""
    hidden_BTD, weight_VD, targets_BT = case()
    summed_cross_entropy(Head(weight_VD), hidden_BTD, targets_BT).backward()
    moved = hidden_BTD.grad.abs().sum(dim=-1) > 0
    assert torch.equal(moved, targets_BT != IGNORE)


def test_single_losses_equal_torch(monkeypatch):
    """A difference would mean that perplexity measures something else than training minimises."""
    hidden_BTD, weight_VD, targets_BT = case(torch.float32)
    found = cross_entropies(Head(weight_VD), hidden_BTD, targets_BT)
    expected = reference(hidden_BTD, weight_VD, targets_BT, "none")[targets_BT.flatten() != IGNORE]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    total = summed_cross_entropy(Head(weight_VD), hidden_BTD, targets_BT)
    torch.testing.assert_close(found.sum(), total.detach(), rtol=1e-5, atol=0)
    assert cross_entropies(Head(weight_VD), hidden_BTD, torch.full_like(targets_BT, IGNORE)).shape == (0,)


def test_head_sees_few_different_sizes():
    """Logits of a new size at every step scatter over the heap: memory grew by a factor of two in 300 steps."""
    sizes = set()

    class Counting(torch.nn.Module):
        def head(self, hidden_ND):
            sizes.add(len(hidden_ND))
            return hidden_ND

    draw = torch.Generator().manual_seed(0)
    for count in range(1, 512, 7):
        targets_BT = torch.full((2, 256), IGNORE)
        targets_BT.flatten()[torch.randperm(512, generator=draw)[:count]] = 3
        hidden_BTD = torch.randn(2, 256, 8, generator=draw, requires_grad=True)
        loss = summed_cross_entropy(Counting(), hidden_BTD, targets_BT)
        kept_ND = hidden_BTD.detach()[targets_BT != IGNORE]
        expected = torch.nn.functional.cross_entropy(kept_ND, torch.full((count,), 3), reduction="sum")
        torch.testing.assert_close(loss, expected)
        loss.backward()
        assert hidden_BTD.grad[targets_BT == IGNORE].abs().max() == 0
    assert sizes == {1, 128, 256, 384, 512}  # 1: the row that tells how many logits there are


@pytest.mark.parametrize("smoothing", [0.1, 0.5])
def test_smoothed_loss_and_gradient_equal_torch(smoothing):
    """A difference would mean that label smoothing pulls elsewhere than to the mixture with the uniform one."""
    hidden_BTD, weight_VD, targets_BT = case()
    hidden_BTD.requires_grad_(), weight_VD.requires_grad_()
    found = summed_cross_entropy(Head(weight_VD), hidden_BTD, targets_BT, smoothing)
    logits_NV = (hidden_BTD @ weight_VD.T).flatten(0, 1)
    expected = F.cross_entropy(logits_NV, targets_BT.flatten(), reduction="sum", label_smoothing=smoothing)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    gradients = [torch.autograd.grad(loss, (hidden_BTD, weight_VD)) for loss in (found, expected)]
    for mine, other in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-12)
