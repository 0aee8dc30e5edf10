"""What is trained beside a frozen base, and with little memory, is the same with one process as with two."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

TOLERANCE = 1e-6
ADAPTERS = {
    "lora": [{"kind": "lora", "rank": 3}],  # three rows: the two shares of A are not equal
    "dora": [{"kind": "lora", "rank": 2, "dora": True}],
    "lora of embedding and head": [{"kind": "lora", "rank": 2, "targets": ["embedding", "head", "attn.q"]}],
    "qlora": [{"kind": "quantize"}, {"kind": "lora", "rank": 2}],
    "qlora over a quantized embedding": [
        {"kind": "quantize", "bits": 8, "also": ["embedding", "head"]}, {"kind": "lora", "rank": 2}
    ],
    "bottleneck": [{"kind": "bottleneck", "width": 4, "variant": "houlsby"}],
    "soft prompt": [{"kind": "soft_prompt", "length": 3}],
    "prompt layer": [{"kind": "prompt_layer", "rank": 4}],
    "freeze": [{"kind": "freeze", "layers": 1, "norm": True}],
}  # fmt: skip
FRUGAL = {
    "checkpointing": {"checkpointing": True},
    "all": {"checkpointing": True, "chunks": True, "micro": 1, "adapter": ADAPTERS["lora of embedding and head"]},
    "all over a quantized base": {
        "checkpointing": True, "chunks": True, "micro": 2, "adapter": ADAPTERS["qlora"]
    },
}  # fmt: skip
HALF = {"name": "half of qlora", "kind": "fsdp", "sharded": True, "until": 3, "adapter": ADAPTERS["qlora"]}
GOES_ON = {
    "name": "other half",
    "world": 1,
    "kind": "none",
    "from": HALF["name"],
    "adapter": ADAPTERS["qlora"],
}
ON_DISK = {"name": "on disk", "kind": "ddp", "offload": "both", "adapter": ADAPTERS["lora"]}
REFUSED = {
    "train.offload": {"offload": "both", "adapter": ADAPTERS["lora"]},
    "train.optim.kind=adamw8bit": {"optimizer": "adamw8bit"},
}
CASES = {name: {"adapter": entries} for name, entries in ADAPTERS.items()} | FRUGAL
KINDS = ("ddp", "fsdp")


@pytest.fixture(scope="module")
def done(together):
    one = [{"name": name, "world": 1, "kind": "none", **case} for name, case in CASES.items()]
    two = [
        {"name": f"{name}, {kind}", "kind": kind, **case}
        for name, case in CASES.items() for kind in KINDS
    ]  # fmt: skip
    refused = [{"name": name, "kind": "fsdp", "codes": [2, 2], **case} for name, case in REFUSED.items()]
    return together([
        {"world": 2, "steps": 5, **job} for job in [*one, *two, HALF, GOES_ON, ON_DISK, *refused]
    ])  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", CASES)
def test_two_processes_learn_what_one_learns(done, name, kind):
    """A difference would mean that an adapter, or a way to need less memory, learns something else in company."""
    one, two = (load_file(done / f"{each}.safetensors") for each in (name, f"{name}, {kind}"))
    same(two, one)
    alone, together = (json.loads((done / f"{each}.json").read_text()) for each in (name, f"{name}, {kind}"))
    assert together["trained"] == alone["trained"] and any(alone["trained"].values())
    for ours, theirs in zip(together["rows"], alone["rows"], strict=True):
        torch.testing.assert_close(torch.tensor(ours), torch.tensor(theirs), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", [name for name in ADAPTERS if "freeze" not in name])
def test_the_adapter_that_is_saved_is_whole(done, name, kind):
    """A failure would mean that a run of several processes saves the share of one of them, or an empty model."""
    one, two = (done / f"{each}-adapter" for each in (name, f"{name}, {kind}"))
    assert {file.name for file in two.iterdir()} == {file.name for file in one.iterdir()}
    same(load_file(two / "adapter_model.safetensors"), load_file(one / "adapter_model.safetensors"))
    assert (two / "lmcraft.json").read_text() == (one / "lmcraft.json").read_text()


def test_one_process_goes_on_with_the_shares_of_two(done):
    """A failure would mean that a tuned run that began on a large machine cannot end on a small one."""
    assert json.loads((done / "other half.json").read_text())["said"] == ["resumed after step 3"]
    same(*(load_file(done / f"{name}.safetensors") for name in ("other half", "qlora")))


def test_what_lies_on_disk_is_the_same_for_two(done):
    """A difference would mean that two processes overwrite each other's files."""
    same(*(load_file(done / f"{name}.safetensors") for name in ("on disk", "lora")))


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_work_on_shares_is_refused(done, name):
    """A failure would mean a traceback of a library, or a hang, in place of the reason and what to do."""
    for rank in (0, 1):
        text = (done / f"{name}.{rank}.txt").read_text()
        assert f"{name} does not work on a model that is cut over processes" in text
        assert "why: " in text and "train.parallel=ddp" in text


def same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(
            found[name], tensor, rtol=0, atol=TOLERANCE, msg=lambda m, n=name: f"{n}: {m}"
        )
