"""Processes stop together: after a signal to one of them, a problem of one of them, or the end of one of them."""

from __future__ import annotations

import pytest

from lmcraft.train import checkpoint


@pytest.fixture(scope="module")
def done(together):
    stops = [
        {"name": "asked", "asks": 5, "codes": [143, 143]},
        {"name": "nan", "nan": 5, "micro": 2, "save_every": 2, "codes": [2, 2]},
        {"name": "fails", "fails": 5, "codes": [2, 2]},
        {"name": "dies", "dies": 5, "save_every": 2, "codes": [2, -9]},
        {"name": "leaves", "leaves": 5, "save_every": 2, "patience": 3, "codes": [2, 2]},
    ]
    jobs = [
        {**stop, "name": f"{stop['name']} {kind}", "kind": kind} for stop in stops for kind in ("ddp", "fsdp")
    ]
    return together([{"world": 2, "steps": 20, **job} for job in jobs])


def told(folder, name, rank=0) -> str:
    return (folder / f"{name}.{rank}.txt").read_text()


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_a_signal_to_one_stops_all_after_the_same_step(done, kind):
    """A failure would mean that a preempted job hangs, or saves different steps in different processes."""
    for rank in (0, 1):
        assert told(done, f"asked {kind}", rank).startswith(
            "True stopped by SIGTERM after step 5; everything is saved"
        )
    assert checkpoint.find(done / f"asked {kind}" / "checkpoints")[0].endswith("step-00000005")


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_a_loss_that_is_not_finite_in_one_stops_all(done, kind):
    """A failure would mean that one process's NaN hangs the others, or that nobody learns which rows made it."""
    texts = {told(done, f"nan {kind}", rank) for rank in (0, 1)}
    assert len(texts) == 1
    text = texts.pop()
    assert text.startswith("True step 6 has a loss of nan") and "made.jsonl:" in text
    assert checkpoint.find(done / f"nan {kind}" / "checkpoints")[0].endswith("step-00000004")


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_an_error_of_one_outside_the_loop_stops_all_and_is_saved(done, kind):
    """A failure would mean that a full disk, which only the first process meets, hangs the others."""
    assert told(done, f"fails {kind}").startswith("False the first process cannot write")
    assert told(done, f"fails {kind}", 1).startswith("False another process has left training after step 5")
    assert checkpoint.find(done / f"fails {kind}" / "checkpoints")[0].endswith("step-00000005")


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_the_others_notice_that_one_was_killed(done, kind):
    """A failure would mean a hang, or a traceback of a library, in place of the reason and what to do."""
    text = told(done, f"dies {kind}")
    assert text.startswith("False process 0 of 2 has lost the others") and "the same command goes on" in text
    assert checkpoint.find(done / f"dies {kind}" / "checkpoints")[0].endswith("step-00000004")


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_one_that_waits_in_vain_stops_when_its_patience_ends(done, kind):
    """A failure would mean that a process waits half an hour, whatever train.patience_s says, for one that is gone."""
    assert told(done, f"leaves {kind}").startswith("False the first process has no memory for this")
    text = told(done, f"leaves {kind}", 1)
    assert text.startswith("False process 1 of 2 has lost the others") and "the same command goes on" in text
    assert checkpoint.find(done / f"leaves {kind}" / "checkpoints")[0].endswith("step-00000004")
