"""A model is tuned beside its frozen base: trained, stopped, resumed, asked, merged, as a user would type it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

import lmcraft
from lmcraft.cli.main import run
from lmcraft.core.errors import UserError

SMALL = [
    "model=nano", "model.context=64", "tokenizer.vocab=300", "train.steps=2", "train.batch_size=4"
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tales) -> Path:
    """A folder with a base, and data to tune it on."""
    found = tales(tmp_path_factory.mktemp("life"))
    for name, seed in (("book", 0), ("other", 5)):
        train = ["pretrain", f"data={found / 'book.txt'}", *SMALL, f"seed={seed}", "--out", str(found / name)]
        assert run(["train", *train]) == 0
    return found


def tune(folder: Path, name: str, *settings: str) -> list[str]:
    return [
        "train", "sft", f"base={folder / 'book'}", f"data={folder / 'chats.jsonl'}", "train.steps=4",
        "train.batch_size=4", "train.save_every=2", "adapter=lora", "adapter.rank=2",
        "train.precision=fp32", *settings,  # two runs that are compared must not choose for themselves
        "--out", str(folder / name),
    ]  # fmt: skip


def test_the_life_of_an_adapter(folder, capsys, tmp_path):
    """If this failed, some step of tuning beside a frozen base would not fit the one before it."""
    assert run(tune(folder, "chat")) == 0
    made = folder / "chat"
    assert not (made / "model").exists() and (made / "adapter" / "adapter_config.json").is_file()
    kept = load_file(made / "checkpoints" / "step-00000004" / "model.safetensors")
    assert kept and all(".beside." in name for name in kept), (
        "a checkpoint holds what is trained, not the base"
    )

    capsys.readouterr()
    ask = ["generate", str(made), "2 cats", "-m", "5", "-t", "0", "--json"]
    assert run(ask) == 0
    alone = json.loads(capsys.readouterr().out)["completions"]
    beside = [
        "generate",
        str(folder / "book"),
        "2 cats",
        "-m",
        "5",
        "-t",
        "0",
        "--adapter",
        str(made),
        "--json",
    ]
    assert run(beside) == 0
    assert json.loads(capsys.readouterr().out)["completions"] == alone
    assert run([*beside, "--strength", "0"]) == 0
    assert run(["show", str(made), "--json"]) == 0
    capsys.readouterr()

    assert run(["merge", str(made), "--out", str(tmp_path / "plain"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["largest_difference_of_logits"] < 1e-4
    ask[1] = str(tmp_path / "plain")
    assert run(ask) == 0
    merged = json.loads(capsys.readouterr().out)["completions"]  # rounded once more than two products apart
    assert [(one["text"], one["tokens"]) for one in merged] == [(one["text"], one["tokens"]) for one in alone]
    assert merged[0]["logprobs"] == pytest.approx(alone[0]["logprobs"], abs=1e-4)
    assert run(["merge", str(tmp_path / "plain"), "--out", str(tmp_path / "again")]) == 2


def test_resuming_is_exact(folder):
    """If this failed, a run that was stopped would end with another adapter than one that was not."""
    command = tune(folder, "stopped")
    steps = lmcraft.train(command[1], overrides=command[2:-2], out=folder / "stopped")
    next(steps)
    next(steps)
    steps.close()
    assert run(command) == 0
    assert run(tune(folder, "whole")) == 0
    a, b = (
        load_file(folder / name / "adapter" / "adapter_model.safetensors") for name in ("stopped", "whole")
    )
    assert a.keys() == b.keys() and all(a[name].equal(b[name]) for name in a)


def test_two_adapters_are_switched(folder):
    """If this failed, a server could not answer for two tasks with one base in memory."""
    for name, seed in (("one", 1), ("two", 2)):
        assert run(tune(folder, name, f"seed={seed}", "train.lr=0.05")) == 0
    lm = lmcraft.load(folder / "book", adapters={"one": folder / "one", "two": folder / "two"})
    assert lm.adapters == ["one", "two"]
    ids = lm.ids("2 cats")
    for name in ("two", "one"):
        lm.switch(name)
        assert lm.logits(ids).equal(lmcraft.load(folder / name).logits(ids))
    lm.set_strength(0)
    assert lm.logits(ids).equal(lmcraft.load(folder / "book").logits(ids))


def test_what_cannot_work_is_refused(folder, capsys):
    """If this failed, an adapter would be trained on nothing, or loaded beside a model that it does not fit."""
    no_base = [one for one in tune(folder, "x") if not one.startswith("base=")]
    assert run(no_base) == 2 and "base" in capsys.readouterr().err
    assert run(tune(folder, "x", "adapter.rank=900")) == 2 and "rank 900" in capsys.readouterr().err
    assert run(tune(folder, "x", "adapter.targets=[attn.z]")) == 2 and "attn.q" in capsys.readouterr().err
    assert run(tune(folder, "fits")) == 0
    with pytest.raises(UserError, match="another base"):
        lmcraft.load(folder / "fits", base=folder / "other")


def test_a_halved_base_trains_the_same(folder, monkeypatch):
    """A failure would mean that keeping a frozen base in bfloat16 changes what is learned."""
    from lmcraft.adapt import quantize

    asked = [f"base={folder / 'book'}", f"data={folder / 'chats.jsonl'}", "train.steps=3", "train.batch_size=4",
             "adapter=lora", "train.precision=bf16"]  # fmt: skip
    calls = []
    halve = quantize.apply
    monkeypatch.setattr(quantize, "apply", lambda model, *rest: calls.append(1) or halve(model, *rest))
    for _ in lmcraft.train("sft", asked, out=folder / "in-half"):
        pass
    monkeypatch.setattr(quantize, "apply", lambda model, *rest: model)
    for _ in lmcraft.train("sft", asked, out=folder / "in-full"):
        pass
    one, other = (
        load_file(folder / name / "adapter" / "adapter_model.safetensors") for name in ("in-half", "in-full")
    )
    assert calls and one.keys() == other.keys()
    assert all(one[name].equal(other[name]) for name in one)


def test_a_soft_prompt_takes_its_room_from_the_rows(folder):
    """A failure would mean that prompt tuning with default settings is refused: prompt and text must fit together."""
    asked = [f"base={folder / 'book'}", f"data={folder / 'chats.jsonl'}", "train.steps=1", "train.batch_size=4",
             "adapter=soft_prompt"]  # fmt: skip
    for _ in lmcraft.train("sft", asked, out=folder / "prompted"):
        pass
    assert lmcraft.load(folder / "prompted").generate("2 cats", max_new_tokens=3).tokens


def test_a_quantized_base_is_trained_beside_and_its_errors_are_told(folder, capsys):
    """A failure would mean that QLoRA does not run from the command line, or hides what quantizing did to a layer."""
    command = [word for word in tune(folder, "quantized") if not word.startswith("adapter")]
    command[2:2] = ["adapter=qlora", "adapter.rank=2"]
    assert run(command) == 0
    assert "layers are quantized" in capsys.readouterr().err
    made = folder / "quantized"
    layers = json.loads((made / "data.json").read_text())["quantized"]
    assert layers and all(0 < layer["relative_rms"] < 0.2 for layer in layers)
    base, own = (lmcraft.api.Run.open(folder / name).state for name in ("book", "quantized"))
    assert own["parameters"] == base["parameters"] + own["trained_parameters"], "packed weights count too"
    page = (made / "report.html").read_text()
    assert all(f"Quantized: {layer['path']}" in page for layer in layers)
    assert run(["merge", str(made), "--out", str(folder / "quantized-merged"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["largest_difference_of_logits"] < 1e-4
