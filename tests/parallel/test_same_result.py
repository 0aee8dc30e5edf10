"""N processes are only a way to be faster or to need less memory: they learn what one process learns."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

# How far rounding carries in float32, after 20 steps of Adam, is a matter of the processor: so most is float64.
# A number near 1 has a neighbour at 8e-3 in bfloat16; 20 steps of 1e-3.
TOLERANCE = {"double": 1e-12, "fp32": 1e-6, "bf16": 2e-3}
ONE = [
    {"name": kind, "world": 1, "kind": "none", "model": kind}
    for kind in ("decoder", "lstm", "encdec", "frozen", "embed", "head")
]
CASES = [
    {"name": "ddp", "kind": "ddp", "like": "decoder"},
    {"name": "fsdp", "kind": "fsdp", "like": "decoder"},
    {"name": "ddp in micro-batches", "kind": "ddp", "micro": 3, "like": "decoder"},
    {"name": "fsdp in micro-batches", "kind": "fsdp", "micro": 1, "like": "decoder"},
    {"name": "fsdp in one process", "kind": "fsdp", "world": 1, "like": "decoder"},
    {"name": "ddp with muon", "kind": "ddp", "optimizer": "muon", "like": "muon"},
    {"name": "fsdp with muon", "kind": "fsdp", "optimizer": "muon", "like": "muon"},
    {"name": "ddp of a recurrent model", "kind": "ddp", "model": "lstm", "like": "lstm"},
    {"name": "fsdp of a recurrent model", "kind": "fsdp", "model": "lstm", "like": "lstm"},
    {"name": "fsdp of an encoder-decoder", "kind": "fsdp", "model": "encdec", "like": "encdec"},
    {"name": "ddp of a frozen base", "kind": "ddp", "model": "frozen", "like": "frozen"},
    {"name": "fsdp of a frozen base", "kind": "fsdp", "model": "frozen", "like": "frozen"},
    {"name": "fsdp of a head alone", "kind": "fsdp", "model": "head", "like": "head"},
    {"name": "ddp in float32", "kind": "ddp", "double": False, "like": "float32"},
    {"name": "fsdp in float32", "kind": "fsdp", "double": False, "like": "float32"},
    {"name": "fsdp in bfloat16", "kind": "fsdp", "precision": "bf16", "like": "bfloat16"},
    {"name": "ddp of groups", "kind": "ddp", "model": "embed", "like": "embed"},
    {"name": "fsdp of groups", "kind": "fsdp", "model": "embed", "like": "embed"},
]


@pytest.fixture(scope="module")
def done(together):
    # In bfloat16 sums of halves differ from halves of sums, so there two processes are compared with two.
    bfloat16 = {"name": "bfloat16", "world": 2, "kind": "ddp", "precision": "bf16"}
    jobs = [*ONE, {"name": "muon", "world": 1, "kind": "none", "optimizer": "muon"}, bfloat16]
    jobs += [{"name": "float32", "world": 1, "kind": "none", "double": False}]
    jobs += [{"world": 2, **case} for case in CASES]
    return together([{"double": job.get("precision") != "bf16", **job} for job in jobs])


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_processes_learn_what_one_learns(done, case):
    """A difference would mean that what is learned depends on the number of processes or on how targets are spread."""
    one, found = (load_file(done / f"{name}.safetensors") for name in (case["like"], case["name"]))
    assert found.keys() == one.keys()
    kind = case.get("precision", "double" if case.get("double", True) else "fp32")
    for name, tensor in one.items():
        torch.testing.assert_close(
            found[name], tensor, rtol=0, atol=TOLERANCE[kind], msg=lambda m, n=name: f"{n}: {m}"
        )
    alone, together = (json.loads((done / f"{n}.json").read_text()) for n in (case["like"], case["name"]))
    assert together["trained"] == alone["trained"]
    for ours, theirs in zip(together["rows"], alone["rows"], strict=True):
        assert ours[0] == theirs[0] and ours[3:5] == theirs[3:5]  # step, targets, tokens
        near = 1e-2 if case.get("precision") == "bf16" else 1e-5
        torch.testing.assert_close(torch.tensor(ours), torch.tensor(theirs), rtol=near, atol=near)


def test_the_comparison_would_notice_a_mean_of_means(done):
    """If this failed, targets would be spread so evenly that a wrong divisor could hide."""
    from lmcraft.data.loader import Loader
    from lmcraft.data.tokens import Tokens

    parts = [Loader(Tokens(done / "texts"), 24, 8, 1, False, rank=rank, world=2) for rank in (0, 1)]
    counts = [[part.next().count for part in parts] for _ in range(20)]
    assert sum(abs(a - b) > 0.2 * (a + b) for a, b in counts) >= 5
    start = load_file(done / "decoder.safetensors")
    muon = load_file(done / "muon.safetensors")
    assert (
        max(float((start[name] - muon[name]).abs().max()) for name in start) > 1e-3
    )  # training moves weights
