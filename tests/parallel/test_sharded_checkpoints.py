"""Checkpoints of several processes: whole or in pieces, they go on with any number of processes."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from lmcraft.train import checkpoint

TOLERANCE = 1e-6
HALF = [
    {"name": "in pieces", "kind": "fsdp", "sharded": True, "until": 10},
    {"name": "put together", "kind": "fsdp", "until": 10},
    {"name": "copied", "kind": "ddp", "until": 10},
    {"name": "copied, in pieces", "kind": "ddp", "sharded": True, "until": 10},
]
GOES_ON = [
    {"name": f"{name}, then {world} {kind}", "world": world, "kind": kind, "from": name, "sharded": True}
    for name, world, kind in (
        ("in pieces", 1, "none"), ("in pieces", 2, "fsdp"), ("in pieces", 4, "fsdp"), ("in pieces", 4, "ddp"),
        ("put together", 2, "fsdp"), ("put together", 1, "none"),
        ("copied, in pieces", 1, "none"), ("copied", 2, "fsdp"),
    )
]  # fmt: skip
DROPOUT = [
    {"name": "dropout", "kind": "ddp", "model": "dropout"},
    {"name": "dropout, half", "kind": "ddp", "model": "dropout", "until": 10},
    {"name": "dropout, on", "kind": "ddp", "model": "dropout", "from": "dropout, half"},
    {
        "name": "dropout, on three more",
        "world": 4,
        "kind": "ddp",
        "model": "dropout",
        "from": "dropout, half",
    },
]


@pytest.fixture(scope="module")
def done(together):
    whole = [{"name": "fsdp", "kind": "fsdp"}, {"name": "one", "world": 1, "kind": "none"}]
    return together([{"world": 2, **job} for job in whole + HALF + GOES_ON + DROPOUT])


def at(folder, name, step=10) -> checkpoint.Checkpoint:
    path = folder / name / "checkpoints" / f"step-{step:08d}"
    assert checkpoint.verify(path) is None
    return checkpoint.read(path)


def same(found, expected) -> None:
    for part, tensors in expected.tensors.items():
        assert set(found.tensors[part]) == set(tensors), part
        for name in tensors:
            assert torch.equal(found.tensors[part][name], tensors[name]), f"{part} {name}"


def test_a_checkpoint_in_pieces_holds_the_same_bits(done):
    """A difference would mean that rows of a tensor are lost, doubled or exchanged when it is put together."""
    same(at(done, "in pieces"), at(done, "put together"))
    assert at(done, "in pieces").state == at(done, "put together").state
    same(at(done, "copied, in pieces"), at(done, "copied"))
    files = {file.name for file in (done / "in pieces" / "checkpoints" / "step-00000010").iterdir()}
    assert {f"model-0000{n}-of-00002.safetensors" for n in (1, 2)} <= files
    assert not any(file.endswith((".pt", ".pkl", ".metadata", ".distcp")) for file in files)


def test_a_process_writes_its_own_rows_only(done):
    """If this failed, sharded saves would take the room of as many models as there are processes."""
    files = (done / "in pieces" / "checkpoints" / "step-00000010").glob("model-*")
    pieces = [load_file(file) for file in sorted(files)]
    whole = at(done, "in pieces").tensors["model"]
    for name in whole:
        assert sum(len(piece[name]) for piece in pieces if name in piece) == len(whole[name]), name
        if whole[name].ndim > 1:
            assert len(pieces[0][name]) == -(-len(whole[name]) // 2), name


@pytest.mark.parametrize("job", GOES_ON, ids=lambda job: job["name"])
def test_it_goes_on_with_any_number_of_processes(done, job):
    """A failure would mean that a run is bound to the machine on which it began."""
    rows = json.loads((done / f"{job['name']}.json").read_text())
    assert rows["said"] == ["resumed after step 10"] and [row[0] for row in rows["rows"]] == list(
        range(11, 21)
    )
    found, expected = load_file(done / f"{job['name']}.safetensors"), load_file(done / "one.safetensors")
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=TOLERANCE)


def test_the_same_processes_end_with_the_same_bits(done):
    """A difference would mean that a job that was preempted learns something else."""
    same(at(done, "in pieces, then 2 fsdp", 20), at(done, "fsdp", 20))


def test_random_numbers_of_every_process_go_on(done):
    """A difference would mean that processes after the first draw other dropout masks after a stop, or all the same."""
    same(at(done, "dropout, on", 20), at(done, "dropout", 20))
    drawn = at(done, "dropout, half").tensors["random"]
    assert not torch.equal(drawn["cpu"], drawn["1.cpu"])
    more = at(done, "dropout, on three more", 20).tensors["random"]
    assert len({tensor.numpy().tobytes() for tensor in more.values()}) == 4
