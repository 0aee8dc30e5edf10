"""`lmcraft show`: a run, a model, a name; what it says of them is true, and damage is named."""

from __future__ import annotations

import json

import numpy as np
import pytest
from gguf import GGUFWriter
from safetensors.numpy import save_file

from lmcraft.cli.main import run
from lmcraft.core.disk import digest
from lmcraft.core.run import Run
from lmcraft.data import own


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """A store of its own, and an empty folder to stand in."""
    monkeypatch.setenv("LMCRAFT_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)


def told(capsys, *arguments, code=0):
    capsys.readouterr()
    assert run(["show", *map(str, arguments)]) == code
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    return json.loads(out) if "--json" in arguments else out + err


def make_model(folder, scale=1.0):
    folder.mkdir(parents=True)
    weights = {"a": np.full((3, 4), scale, np.float32), "b": np.ones(5, np.float16)}
    save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text('{"model_type": "llama", "hidden_size": 4}')
    return folder


def make_run(path, *parents):
    made = Run.create(path, "stage: sft\n", parents=list(parents), seed=7, command=["lmcraft", "train"])
    make_model(made.path / "model", scale=len(str(path)))
    made.set_status("done", step=12)
    return path


def test_a_model_directory(tmp_path, capsys):
    """A failure would mean a wrong number of parameters, or a digest that identifies nothing."""
    folder = make_model(tmp_path / "model")
    facts = told(capsys, folder, "--json")
    assert (facts["type"], facts["parameters"], facts["formats"]) == ("model", 17, ["F16", "F32"])
    assert facts["model_config"]["hidden_size"] == 4 and facts["chat_template"] is False
    assert facts["family"] == "llama" and facts["context"] is None and facts["licence"] is None
    assert facts["sha256"] == digest(folder) and set(facts["files"]) == {"config.json", "model.safetensors"}
    text = told(capsys, folder)
    assert "parameters: 17" in text and "hidden_size: 4" in text and "model.safetensors" in text
    (folder / "README.md").write_text("---\nlanguage: en\nlicense: apache-2.0\n---\nlicense: other\n")
    (folder / "config.json").write_text('{"model_type": "gpt2", "n_positions": 64}')
    facts = told(capsys, folder, "--json")
    assert (facts["family"], facts["context"], facts["licence"]) == ("gpt2", 64, "apache-2.0")
    (folder / "config.json").write_text("[]")
    assert "not the settings of a model" in told(capsys, folder, code=2)


def test_a_run_and_its_ancestors(tmp_path, capsys):
    """A failure would mean that nobody can tell what a model was made of, or that it has changed since."""
    base = make_run(tmp_path / "base")
    chat = make_run(tmp_path / "chat", base)
    last = make_run(tmp_path / "last", chat)
    facts = told(capsys, last, "--json")
    assert (facts["type"], facts["status"], facts["step"], facts["seed"]) == ("run", "done", 12, 7)
    assert (
        facts["command"] == "lmcraft train"
        and facts["config"] == "stage: sft\n"
        and facts["parameters"] == 17
    )
    lineage = [(one["path"], one["state"], one["generation"]) for one in facts["lineage"]]
    assert lineage == [(str(chat), "unchanged", 1), (str(base), "unchanged", 2)]
    (base / "model" / "config.json").write_text("{}")
    assert [one["state"] for one in told(capsys, last, "--json")["lineage"]] == ["unchanged", "changed since"]
    text = told(capsys, last)
    assert f"{chat}" in text and "changed since" in text and "stage: sft" in text


def test_a_parent_that_is_gone(tmp_path, capsys):
    """A failure would mean that a run cannot be looked at any more when its parent was deleted."""
    base = make_run(tmp_path / "base")
    chat = make_run(tmp_path / "chat", base)
    base.rename(tmp_path / "elsewhere")
    assert [one["state"] for one in told(capsys, chat, "--json")["lineage"]] == ["missing"]


def test_a_run_that_has_not_ended(tmp_path, capsys):
    """A failure would mean that a run can only be looked at when it is finished."""
    Run.create(tmp_path / "new", "stage: pretrain\n")
    facts = told(capsys, tmp_path / "new", "--json")
    assert facts["status"] == "interrupted" and "parameters" not in facts


def test_names(tmp_path, capsys):
    """A failure would mean that licence and origin of stored things are hidden."""
    (tmp_path / "chats.txt").write_text("<user>\nq\n<assistant>\na\n")
    own.keep(tmp_path / "chats.txt", "mine", "CC0-1.0")
    own.keep(make_model(tmp_path / "model"), "mymodel")
    facts = told(capsys, "mine", "--json")
    assert (facts["type"], facts["licence"], facts["look"]) == ("data", "CC0-1.0", "lmcraft data mine")
    facts = told(capsys, "mymodel", "--json")
    assert (facts["type"], facts["licence"], facts["parameters"]) == ("model", "not stated", 17)
    facts = told(capsys, "chitchat", "--json")
    assert (facts["type"], facts["licence"], facts["fetch"]) == ("catalog", "MIT", "lmcraft pull chitchat")
    assert "lmcraft pull chitchat" in told(capsys, "chitchat")


def test_a_gguf_file(tmp_path, capsys):
    """A failure would mean that a quantized model cannot be looked at, or that any file passes for one."""
    writer = GGUFWriter(tmp_path / "a.gguf", "llama")
    writer.add_name("Tiny\x1b[2J")
    writer.add_context_length(64)
    writer.add_license("mit")
    writer.add_chat_template("{{ messages }}")
    writer.add_token_list(["a", "b", "c"])
    writer.add_tensor("token_embd.weight", np.ones((3, 32), np.float32))
    writer.add_tensor("output_norm.weight", np.ones(32, np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    facts = told(capsys, "a.gguf", "--json")
    assert (facts["format"], facts["tensors"], facts["parameters"]) == ("GGUF version 3", 2, 128)
    assert (facts["family"], facts["title"], facts["context"]) == ("llama", "Tiny[2J", 64)
    assert facts["quantization"] == {"F32": 96, "F16": 32} and facts["vocabulary"] == 3
    assert facts["chat_template"] is True and facts["licence"] == "mit"
    own.keep(tmp_path / "a.gguf", "mine", "CC0-1.0")
    text = told(capsys, "mine")
    assert (
        "licence: CC0-1.0" in text
        and "talk: lmcraft chat mine" in text
        and "quantization: F32 96, F16 32" in text
    )
    for content in (b"", b"GGUF", b"PK" + bytes(40), (tmp_path / "a.gguf").read_bytes()[:-1]):
        (tmp_path / "b.gguf").write_bytes(content)
        assert "GGUF file" in told(capsys, "b.gguf", code=2)


def test_what_cannot_be_shown(tmp_path, capsys):
    """A failure would mean that damage or a typo ends in a traceback."""
    (tmp_path / "empty").mkdir()
    broken = make_model(tmp_path / "broken")
    (broken / "model.safetensors").write_bytes(b"\xff" * 100)
    assert "weights cannot be read" in told(capsys, broken, code=2)
    (broken / "config.json").write_text("{")
    assert "config.json" in told(capsys, broken, code=2)
    assert "nothing to show here" in told(capsys, "empty", code=2)
    assert "nothing to show here" in told(capsys, "none.jsonl", code=2)
    assert "nothing in the store called" in told(capsys, "nosuchname", code=2)
    damaged = make_run(tmp_path / "damaged")
    (damaged / "origin.json").write_text("{}")
    assert "origin.json" in told(capsys, damaged, code=2)
