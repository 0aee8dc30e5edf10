"""Model directories: weights, words and settings come in, whatever can hold code does not."""

from __future__ import annotations

import pytest

from lmcraft.core.errors import UserError
from lmcraft.data import gguffile, modelfiles

KEPT = (
    "config.json generation_config.json tokenizer.json tokenizer_config.json tokenizer.model vocab.json vocab.txt "
    "merges.txt special_tokens_map.json added_tokens.json chat_template.jinja model.safetensors modules.json "
    "model-00001-of-00002.safetensors model.safetensors.index.json 1_Pooling/config.json README.md LICENSE LICENCE.txt"
).split()
LEFT = (
    "pytorch_model.bin model.pt model.ckpt tokenizer.pkl tokenizer.py modeling_x.py optimizer.npz LICENSE.py "
    "README.exe 2_Dense/config.json onnx/model.onnx ../config.json /config.json a/model.safetensors .safetensors "
    "training_args.bin flax_model.msgpack tf_model.h5 model.safetensors.py handler.py config.json\n"
).split(" ")


def test_what_is_kept_and_what_is_left():
    """A failure would mean that a model lacks a file that loading needs, or that code and pickles come along."""
    assert [name for name in KEPT if not modelfiles.allowed(name)] == []
    assert [name for name in LEFT if modelfiles.allowed(name)] == []
    assert modelfiles.chosen(["model.safetensors", "config.json", "x.py"], "x") == [
        "config.json",
        "model.safetensors",
    ]
    adapter = ["adapter_config.json", "adapter_model.safetensors"]
    assert modelfiles.chosen(adapter, "x") == adapter


def test_what_is_missing_is_named():
    """A failure would mean that the user does not learn why a directory is refused."""
    with pytest.raises(UserError, match="not a model directory") as error:
        modelfiles.chosen([f"file{n}\x1b" for n in range(20)], "x")
    assert "and 12 more" in str(error.value) and "\x1b" not in str(error.value)
    with pytest.raises(UserError) as error:
        modelfiles.chosen(["config.json", "pytorch_model.bin", "other.PT"], "x")
    assert "other.PT, pytorch_model.bin: pickled weights can hold code" in str(error.value)


def test_gguf_files(tmp_path):
    """A failure would mean that any file passes for a model, or that its name moves it elsewhere."""
    (tmp_path / "a.gguf").write_bytes(b"PK\x03\x04")
    with pytest.raises(UserError, match="not a GGUF file"):
        gguffile.require(tmp_path / "a.gguf")
    (tmp_path / "a.gguf").write_bytes(b"GGUF")
    gguffile.require(tmp_path / "a.gguf")
    names = {
        "a.gguf": "a.gguf",
        "A b.GGUF": "A-b.gguf",
        "../x.gguf": "x.gguf",
        ".gguf": "model.gguf",
        "é": "model.gguf",
    }
    assert {name: gguffile.stored_name(name) for name in names} == names
