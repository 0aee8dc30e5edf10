"""One's own files in the store: checked, copied without anything that could hold code, and independent."""

from __future__ import annotations

import json

import pytest

from lmcraft.core.disk import digest
from lmcraft.core.errors import UserError
from lmcraft.data import own, store


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """A store of its own for each test."""
    monkeypatch.setenv("LMCRAFT_HOME", str(tmp_path / "home"))


@pytest.fixture
def model(tmp_path):
    """A model directory with things in it that must stay behind."""
    folder = tmp_path / "My Model"
    (folder / "code").mkdir(parents=True)
    for name in (
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "LICENSE",
        "pytorch_model.bin",
        "run.py",
    ):
        (folder / name).write_text(name)
    return folder


def test_data(tmp_path):
    """A failure would mean that data of one's own cannot be used by name."""
    file = tmp_path / "My Chats.v2.jsonl"
    file.write_text('{"text": "a"}\nbroken\n')
    stored = own.keep(file, licence="CC0-1.0")
    assert (stored.name, stored.kind, stored.licence) == ("my-chats.v2", "data", "CC0-1.0")
    assert stored.counts == {"records": 1, "problems": 1} and stored.source == str(file)
    file.unlink()
    assert store.resolve("my-chats.v2").read_text().startswith('{"text": "a"}')


def test_a_model_directory(model):
    """A failure would mean that pickled weights or code are kept with a model, or that a check finds it changed."""
    stored = own.keep(model)
    assert stored.name == "my-model" and stored.path == store.resolve("my-model")
    names = {file.name for file in stored.path.iterdir()}
    assert names == {"config.json", "model.safetensors", "tokenizer.json", "LICENSE"}
    assert digest(stored.path) == stored.sha256


def test_a_gguf_file(tmp_path):
    """A failure would mean that a file of another kind is kept as a model."""
    (tmp_path / "a.gguf").write_bytes(b"GGUF" + bytes(20))
    assert own.keep(tmp_path / "a.gguf", "mine").path.name == "a.gguf"
    (tmp_path / "b.gguf").write_bytes(b"PK")
    with pytest.raises(UserError, match="not a GGUF file"):
        own.keep(tmp_path / "b.gguf")


def test_what_cannot_be_kept(tmp_path, model):
    """A failure would mean that something useless or dangerous gets a name, or that it hides a public one."""
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "chitchat.jsonl").write_text(json.dumps({"text": "a"}))
    (tmp_path / "a.pt").write_text("pickle")
    cases = {
        tmp_path / "none": "no such file",
        tmp_path / "empty.jsonl": "cannot be used",
        tmp_path / "chitchat.jsonl": "belongs to the catalog",
        tmp_path / "a.pt": "pickled files are not read",
        tmp_path / "home": "no such file",
    }
    for path, words in cases.items():
        with pytest.raises(UserError, match=words):
            own.keep(path)
    with pytest.raises(UserError, match="cannot be a name"):
        own.keep(model, "../evil")
    (model / "model.safetensors").unlink()
    with pytest.raises(UserError, match="no safetensors"):
        own.keep(model)
    (model / "config.json").unlink()
    with pytest.raises(UserError, match="not a model directory"):
        own.keep(model)
    assert store.entries() == []
