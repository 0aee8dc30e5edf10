"""Models on disk: every tensor accounted for, mistakes named, nothing executed."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from lmcraft.core.errors import UserError
from lmcraft.models import decoder, model, rnn, weights


@pytest.fixture(params=["llama", "native", "rnn"])
def saved(request, tmp_path):
    """A small model, saved."""
    size = {"vocab": 23, "layers": 1, "width": 16, "context": 16}
    config = {
        "llama": decoder.Config(heads=2, **size), "native": decoder.Config(heads=2, positions="sinusoidal", **size),
        "rnn": rnn.Config(**size),
    }[request.param]  # fmt: skip
    weights.save(model.build(config), tmp_path)
    return tmp_path


def change(directory, edit) -> None:
    tensors = load_file(directory / "model.safetensors")
    edit(tensors)
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})


def refused(directory, *parts: str) -> None:
    with pytest.raises(UserError) as caught:
        weights.load(directory)
    assert str(directory) in caught.value.where
    for part in parts:
        assert part in str(caught.value)


def test_only_safe_files_are_written(saved):
    """A failure would mean that a model directory can hold code."""
    assert {file.name for file in saved.iterdir()} == {"config.json", "model.safetensors"}


def test_loaded_models_are_in_evaluation_mode_and_float32(saved):
    """A failure would mean that dropout acts in chats, or that half of the digits are missing."""
    net = weights.load(saved)
    assert not net.training and all(p.dtype == torch.float32 for p in net.parameters())
    assert not any(p.is_meta for p in net.parameters())


def test_half_precision_files_are_read(saved):
    """A failure would mean that most public models, which are stored in bfloat16, cannot be read."""
    before = weights.load(saved)
    change(saved, lambda tensors: tensors.update({n: t.bfloat16() for n, t in tensors.items()}))
    for ours, theirs in zip(weights.load(saved).parameters(), before.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs.bfloat16().float())


def test_a_missing_tensor_is_named(saved):
    """A failure would mean that a layer of random numbers passes for a trained one."""
    name = sorted(load_file(saved / "model.safetensors"))[-1]
    change(saved, lambda tensors: tensors.pop(name))
    refused(saved, "1 tensors are missing", name)


def test_a_tensor_left_over_is_named(saved):
    """A failure would mean that weights which belong to the model are ignored."""
    change(saved, lambda tensors: tensors.update({"extra.weight": torch.zeros(2)}))
    refused(saved, "1 tensors are left over", "extra.weight")


def test_a_tensor_of_another_shape_is_named(saved):
    """A failure would mean a crash without the name."""
    name = sorted(load_file(saved / "model.safetensors"))[0]
    change(saved, lambda tensors: tensors.update({name: torch.zeros(3, 3)}))
    refused(saved, "of another shape", name, "[3, 3]")


def test_a_torn_file_is_told(saved):
    """A failure would mean a traceback from deep inside a library."""
    file = saved / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-7])
    refused(saved, "cannot be read")


def test_missing_weights_are_told(saved):
    """A failure would mean that a half-downloaded model gives a traceback."""
    (saved / "model.safetensors").unlink()
    refused(saved, "model.safetensors is missing")


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", '{"model_type": "lmcraft"}', '{"model_type": "lmcraft", "lmcraft": {"kind": "nothing"}}',
             '{"model_type": "lmcraft", "lmcraft": {"kind": "decoder", "layers": -1}}', '{"model_type": "bert"}',
             '{"model_type": "llama"}', '{"model_type": "llama", "vocab_size": "many"}', "null"],
)  # fmt: skip
def test_a_damaged_config_is_told(saved, text):
    """A failure would mean a traceback for a file that came from outside (promise C4)."""
    (saved / "config.json").write_text(text)
    with pytest.raises(UserError):
        weights.load(saved)


def test_an_empty_directory_is_told(tmp_path):
    """A failure would mean that a typing error in a path gives a traceback."""
    refused(tmp_path, "not a model directory")


def test_shards_are_read(saved):
    """A failure would mean that larger public models, which come in shards, cannot be read."""
    before = weights.load(saved)
    tensors = load_file(saved / "model.safetensors")
    names = sorted(tensors)
    parts = {"model-1.safetensors": names[::2], "model-2.safetensors": names[1::2]}
    for file, part in parts.items():
        save_file({name: tensors[name] for name in part}, saved / file)
    (saved / "model.safetensors").unlink()
    index = {"weight_map": {name: file for file, part in parts.items() for name in part}}
    (saved / "model.safetensors.index.json").write_text(json.dumps(index))
    for ours, theirs in zip(weights.load(saved).parameters(), before.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    (saved / "model-2.safetensors").unlink()
    refused(saved, "model-2.safetensors is missing")


@pytest.mark.parametrize(
    "index", ["{", "{}", '{"weight_map": []}', '{"weight_map": {"a": "../../etc/passwd"}}']
)
def test_a_damaged_index_is_told(saved, index):
    """A failure would mean a traceback, or that a model directory names files outside itself."""
    (saved / "model.safetensors.index.json").write_text(index)
    with pytest.raises(UserError):
        weights.load(saved)


def test_overwriting_an_older_model(saved):
    """A failure would mean that a run that is finished twice mixes two models."""
    net = weights.load(saved)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(1.0)
    shutil.copytree(saved, saved / "copy")
    weights.save(net, saved / "copy")
    for ours, theirs in zip(weights.load(saved / "copy").parameters(), net.parameters(), strict=True):
        assert torch.equal(ours, theirs)
