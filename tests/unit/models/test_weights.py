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
             '{"model_type": "lmcraft", "lmcraft": {"kind": "rnn", "vocab": 3, "layers": 1000000000}}',
             '{"model_type": "lmcraft", "lmcraft": {"kind": "rnn", "vocab": 3, "layers": 900}}',
             '{"model_type": "lmcraft", "lmcraft": {"kind": "rnn", "vocab": 1000000000000, "width": 1000000000000}}',
             '{"model_type": "qwen2", "num_hidden_layers": 1000000000}', '{"model_type": "gemma3", "text_config": []}',
             '{"model_type": {}}', '{"model_type": "gemma3_text", "sliding_window_pattern": 0}',
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
    "index",
    [
        "{", "{}", '{"weight_map": []}', '{"weight_map": {}}',
        '{"weight_map": {"a": 7}}', '{"weight_map": {"a": ["b"]}}',
        *(
            json.dumps({"weight_map": {"a": name}})
            for name in ("../../etc/passwd", "/etc/passwd", "../model.safetensors", "a/model.safetensors", "..", "",
                         ".hidden.safetensors", "model.bin", "a\0.safetensors", "x" * 300 + ".safetensors",
                         "model.safetensors\n", "..\\model.safetensors")
        ),
    ],
)  # fmt: skip
def test_a_damaged_index_is_told(saved, index):
    """A failure would mean a traceback, or that a model directory names files outside itself."""
    (saved / "model.safetensors.index.json").write_text(index)
    with pytest.raises(UserError):
        weights.load(saved)


def test_large_models_are_saved_in_shards(saved):
    """A failure would mean files that some disks and hubs do not take, or an index that points to nothing."""
    net = weights.load(saved)
    weights.save(net, saved, shard_bytes=3000)
    shards = sorted(file.name for file in saved.glob("*.safetensors"))
    assert len(shards) > 2 and shards[0] == f"model-00001-of-{len(shards):05}.safetensors"
    index = json.loads((saved / "model.safetensors.index.json").read_text())
    assert sorted(set(index["weight_map"].values())) == shards
    sizes = {name: sum(t.nbytes for t in load_file(saved / name).values()) for name in shards}
    assert index["metadata"]["total_size"] == sum(sizes.values())
    assert all(size <= 3000 or len(load_file(saved / name)) == 1 for name, size in sizes.items())
    for ours, theirs in zip(weights.load(saved).parameters(), net.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    weights.save(net, saved)  # whole again: nothing of the shards may stay
    assert {file.name for file in saved.iterdir()} == {"config.json", "model.safetensors"}
    weights.load(saved)


def test_a_tensor_in_two_shards_is_told(saved):
    """A failure would mean that chance decides which of two versions of a layer is read."""
    weights.save(weights.load(saved), saved, shard_bytes=3000)
    first, second, *_ = sorted(saved.glob("*.safetensors"))
    tensors = load_file(first)
    save_file(load_file(second) | {name: t.clone() for name, t in list(tensors.items())[:1]}, second)
    with pytest.raises(UserError, match="stored twice"):
        weights.load(saved)


@pytest.fixture(params=["llama", "gpt2"])
def tied(request, tmp_path):
    """A small model of a public family with a tied head, saved; and the public name of its embedding."""
    gpt2 = {"positions": "learned", "norm": "layernorm", "mlp": "gelu", "bias": "all"}
    settings = {} if request.param == "llama" else gpt2
    config = decoder.Config(vocab=23, layers=2, width=16, heads=2, context=16, **settings)
    weights.save(model.build(config), tmp_path)
    return tmp_path, "model.embed_tokens.weight" if request.param == "llama" else "transformer.wte.weight"


def test_a_tied_head_may_be_stored_once_more(tied):
    """A failure would mean that models from programs which store the tied head too cannot be read."""
    directory, name = tied
    before = weights.load(directory)
    change(directory, lambda tensors: tensors.update({"lm_head.weight": tensors[name].clone()}))
    after, report = weights.load_reported(directory)
    assert report.copies == ("lm_head.weight",) and "1 tied and stored twice" in str(report)
    assert after.output.weight is after.embedding.weight
    assert torch.equal(after.output.weight, before.output.weight)
    change(directory, lambda tensors: tensors.pop(name))  # only under the other name
    assert torch.equal(weights.load(directory).embedding.weight, before.embedding.weight)


def test_a_tied_head_that_differs_is_told(tied):
    """A failure would mean that a head which somebody trained is thrown away."""
    directory, name = tied
    change(directory, lambda tensors: tensors.update({"lm_head.weight": tensors[name] + 1e-4}))
    with pytest.raises(UserError, match=r"lm_head\.weight and .* should be the same and differ"):
        weights.load(directory)


def test_an_untied_head_that_is_missing_is_told(tied):
    """A failure would mean that a head of random numbers passes for a trained one."""
    directory, _ = tied
    file = directory / "config.json"
    file.write_text(file.read_text().replace('"tie_word_embeddings": true', '"tie_word_embeddings": false'))
    refused(directory, "1 tensors are missing", "lm_head.weight")


def test_names_of_the_bare_class_and_derived_buffers(tied):
    """A failure would mean that checkpoints of the class without head, or of older versions, cannot be read."""
    directory, name = tied
    before = weights.load(directory)
    prefix = name.split(".")[0] + "."
    buffers = {
        "model.": {"layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4), "rotary_emb.inv_freq": torch.ones(4)},
        "transformer.": {"h.0.attn.bias": torch.ones(1, 1, 16, 16), "h.1.attn.masked_bias": torch.tensor(-1e4)},
    }[prefix]  # fmt: skip

    def bare(tensors):
        renamed = {key.removeprefix(prefix): tensors.pop(key) for key in list(tensors)}
        tensors.update(renamed | buffers)

    change(directory, bare)
    after, report = weights.load_reported(directory)
    assert set(report.left_out) == set(buffers) and "2 left out" in str(report)
    assert report == weights.examine(directory)
    for ours, theirs in zip(after.parameters(), before.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_the_report_counts(saved):
    """A failure would mean that a report tells something else than what is loaded."""
    change(saved, lambda tensors: tensors.update({n: t.half() for n, t in list(tensors.items())[:2]}))
    net, report = weights.load_reported(saved)
    assert report.matched == len(load_file(saved / "model.safetensors"))
    assert report.parameters == model.count_parameters(net)
    assert report.formats["F16"] == 2 and sum(report.formats.values()) == report.matched
    assert report == weights.examine(saved) and f"{report.matched} tensors matched" in str(report)


def test_whole_numbers_are_no_weights(saved):
    """A failure would mean that quantized weights are taken for the numbers that they stand for."""
    name = sorted(load_file(saved / "model.safetensors"))[0]
    change(saved, lambda tensors: tensors.update({name: tensors[name].char()}))
    refused(saved, "of another number format", f"{name} I8")


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
