"""Who holds how many bytes."""

from __future__ import annotations

import torch

from lmcraft.train.ledger import OPTIMIZER, Ledger


def test_a_storage_is_counted_once_and_until_it_ends():
    """A failure would mean that views are counted twice, or that what is freed is planned for."""
    ledger = Ledger()
    whole = torch.zeros(100)
    ledger.note(whole)
    ledger.note(whole.view(10, 10)[2:])
    assert sum(ledger.live.values()) == 400
    ledger.note(whole, OPTIMIZER)
    assert ledger.live[OPTIMIZER] == 400 and sum(ledger.live.values()) == 400
    del whole
    assert sum(ledger.live.values()) == 0
    assert max(sum(peak.values()) for peak in ledger.peaks.values()) == 400
