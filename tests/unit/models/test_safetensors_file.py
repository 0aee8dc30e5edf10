"""Our reading and writing of safetensors against the library's, in pieces of any size, and on damaged files."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from lmcraft.core.errors import UserError
from lmcraft.models import safetensors_file, weights
from lmcraft.models.families import Link

TENSORS = {
    "matrix": torch.arange(35, dtype=torch.float32).view(5, 7), "half": torch.randn(3, 2, 4).half(),
    "brain": torch.randn(9).bfloat16(), "double": torch.randn(2, 2, dtype=torch.float64), "scalar": torch.tensor(3.5),
    "empty": torch.zeros(0, 4), "whole": torch.arange(6).view(2, 3), "flags": torch.tensor([True, False, True]),
}  # fmt: skip
SIZES = [1, 12, 64, 1 << 22]


def collected(stored: safetensors_file.Stored) -> torch.Tensor:
    parts = [piece.clone() for _, piece in safetensors_file.pieces(stored)]
    return torch.cat(parts).view(stored.shape) if parts else torch.zeros(stored.shape, dtype=stored.dtype)


@pytest.mark.parametrize("size", SIZES)
def test_what_the_library_writes_is_read(size, tmp_path, monkeypatch):
    """A difference would mean that public weights come out wrong."""
    monkeypatch.setattr(safetensors_file, "PIECE_BYTES", size)
    save_file(TENSORS, tmp_path / "a.safetensors", metadata={"format": "pt"})
    found = safetensors_file.read(tmp_path / "a.safetensors")
    assert found.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert found[name].dtype == tensor.dtype and torch.equal(collected(found[name]), tensor), name


def test_what_we_write_the_library_reads(tmp_path):
    """A difference would mean that models trained here come out wrong elsewhere."""
    todo = [
        safetensors_file.ToWrite(name, t.dtype, tuple(t.shape), lambda t=t: iter(t.view(-1).split(5)))
        for name, t in TENSORS.items()
    ]
    safetensors_file.write(tmp_path / "a.safetensors", todo, {"format": "pt"})
    found = load_file(tmp_path / "a.safetensors")
    assert found.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor), name
    assert [file.name for file in tmp_path.iterdir()] == ["a.safetensors"]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_joined_and_transposed_tensors_survive_in_pieces(size, transposed, dtype, tmp_path, monkeypatch):
    """A difference would mean that GPT-2's fused matrices are cut at the wrong place."""
    for module in (safetensors_file, weights):
        monkeypatch.setattr(module, "PIECE_BYTES", size)
    ours = {name: torch.randn(rows, 6).to(dtype) for name, rows in (("q", 4), ("k", 2), ("v", 3))}
    link = Link("qkv", ("q", "k", "v"), transposed)
    safetensors_file.write(tmp_path / "a.safetensors", [weights._to_write(link, ours)], {})
    joined = torch.cat([*ours.values()])
    assert torch.equal(load_file(tmp_path / "a.safetensors")["qkv"], joined.t() if transposed else joined)
    targets = [torch.full(t.shape, float("nan")) for t in ours.values()]
    weights.fill(safetensors_file.read(tmp_path / "a.safetensors")["qkv"], targets, link)
    for target, tensor in zip(targets, ours.values(), strict=True):
        assert torch.equal(target, tensor.float())


def test_a_failed_write_leaves_the_old_file(tmp_path):
    """A failure would mean that a full disk destroys the model that was there."""
    file = tmp_path / "a.safetensors"
    save_file({"a": torch.ones(2)}, file)

    def broken():
        yield torch.ones(1)
        raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match="the disk is full"):
        safetensors_file.write(file, [safetensors_file.ToWrite("a", torch.float32, (2,), broken)], {})
    assert torch.equal(load_file(file)["a"], torch.ones(2)) and len(list(tmp_path.iterdir())) == 1


def with_header(header: object, data: bytes = b"\0" * 16) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


ENTRY = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}
DAMAGED = {
    "nothing": b"", "short": b"\1\2", "header beyond the end": (2**63 - 1).to_bytes(8, "little") + b"{}",
    "no JSON": with_header(b"{"), "no UTF-8": with_header(b'{"\xff": 1}'), "deep": with_header(b"[" * 100000),
    "a list": with_header([ENTRY]), "an entry of text": with_header({"a": "b"}),
    "an empty entry": with_header({"a": {}}),
    "a negative size": with_header({"a": ENTRY | {"shape": [-4]}}),
    "a size of text": with_header({"a": ENTRY | {"shape": ["4"]}}),
    "a size that is true": with_header({"a": ENTRY | {"shape": [True, 4]}}),
    "a shape of text": with_header({"a": ENTRY | {"shape": "4"}}),
    "a large size": with_header({"a": ENTRY | {"shape": [2**63 - 1]}}),
    "sizes that multiply for minutes": with_header({"a": ENTRY | {"shape": [2**62] * 300_000}}),
    "sizes that multiply": with_header({"a": ENTRY | {"shape": [2**32, 2**32]}}),
    "three offsets": with_header({"a": ENTRY | {"data_offsets": [0, 8, 16]}}),
    "offsets backwards": with_header({"a": ENTRY | {"data_offsets": [16, 0]}}),
    "a negative offset": with_header({"a": ENTRY | {"data_offsets": [-8, 8]}}),
    "too little data": with_header({"a": ENTRY}, b"\0" * 15), "too much data": with_header({"a": ENTRY}, b"\0" * 17),
    "tensors that overlap": with_header({"a": ENTRY, "b": ENTRY}),
    "a hole": with_header({"a": ENTRY | {"data_offsets": [16, 32]}}, b"\0" * 32),
    "an unknown format": with_header({"a": ENTRY | {"dtype": "F4"}}),
    "a format that is none": with_header({"a": ENTRY | {"dtype": ["F32"]}}),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_file_is_told(name, tmp_path):
    """A failure would mean a traceback, or memory taken because a file says so."""
    (tmp_path / "a.safetensors").write_bytes(DAMAGED[name])
    with pytest.raises(UserError) as caught:
        safetensors_file.read(tmp_path / "a.safetensors")
    assert caught.value.where == str(tmp_path / "a.safetensors")


def test_the_whole_entry_is_good(tmp_path):
    """If it were not, the test above would see other mistakes than those it plants."""
    (tmp_path / "a.safetensors").write_bytes(with_header({"a": ENTRY}))
    assert safetensors_file.read(tmp_path / "a.safetensors")["a"].shape == (4,)
