"""Preferences from the command line: reward models and DPO, whole, beside LoRA and on 4 bits, and what is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import lmcraft
from lmcraft.cli.main import run
from lmcraft.core.run import Run

FEW = ["train.steps=16", "train.batch_size=8", "train.precision=fp32", "sample.max_new_tokens=2"]
NEW = ["model=nano", "model.width=32", "model.context=64", "tokenizer.vocab=300"]
TALK = [{"role": "user", "content": "is it 3?"}, {"role": "assistant", "content": "it is 3!"}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Preferences for a shout, a base that continues text, and one that answers."""
    place = tmp_path_factory.mktemp("preferences")
    said = [(f"is it {n}?", f"it is {n}!", f"perhaps {n}, perhaps") for n in range(60)]
    judged = [{"prompt": p, "chosen": c, "rejected": r} for p, c, r in said]
    rated = [
        {"prompt": p, "completion": (c, r)[n % 2], "label": n % 2 == 0} for n, (p, c, r) in enumerate(said)
    ]
    texts = [{"text": f"{p} {c}"} for p, c, _ in said]
    chats = [{"prompt": p, "completion": c} for p, c, _ in said]
    for name, made in (("judged", judged), ("rated", rated), ("texts", texts), ("chats", chats)):
        (place / f"{name}.jsonl").write_text("\n".join(map(json.dumps, made)))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        assert run(["train", "pretrain", "data=texts.jsonl", *NEW, *FEW, "--out", "runs/book"]) == 0
        chat = ["train", "sft", "base=runs/book", "data=chats.jsonl", *FEW, "--out", "runs/chat"]
        assert run(chat) == 0
    return place


@pytest.fixture
def shell(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """A function: arguments of a command that must succeed → the JSON it prints with --json, else its text."""
    monkeypatch.chdir(folder)

    def call(*arguments: str) -> Any:
        capsys.readouterr()
        code = run(arguments)
        out, err = capsys.readouterr()
        assert code == 0, err
        return json.loads(out) if "--json" in arguments else out + err

    return call


@pytest.mark.parametrize("adapter", ["none", "qlora"])
def test_a_reward_model(shell, adapter) -> None:
    """If this failed, a reward model could not be trained, measured, read or handed to PPO."""
    place, settings = f"runs/reward-{adapter}", [*FEW, "train.lr=0.01", f"adapter={adapter}"]
    told = shell("train", "reward", "base=runs/chat", "data=judged.jsonl", *settings, "--out", place)
    assert f"next:   lmcraft eval {place} reward" in told
    rows = Run.open(place).metrics()
    assert all({"accuracy", "score_gap"} <= set(row) for row in rows)
    assert sum(row["accuracy"] for row in rows[-3:]) > 2.7
    found = shell("eval", place, "reward", "judged.jsonl", "--json")
    assert found["metrics"]["accuracy"] > 0.9 and found["metrics"]["score_gap"] > 0
    assert "reliability" in shell("eval", place, "reward", "--json")["tables"]
    lm = lmcraft.load(place)
    samples = [
        json.loads(line) for line in Path(place, "evals", "reward.samples.jsonl").read_text().splitlines()
    ]
    assert samples and lm.config.gain != 1.0
    worse = [TALK[0], {"role": "assistant", "content": "perhaps 3, perhaps"}]
    assert lm.rewards([TALK])[0] > lm.rewards([worse])[0]
    read = shell("read", place, "it is 3!", "--json")
    assert read["task"] == "score" and isinstance(read["texts"][0]["score"], float)


@pytest.mark.parametrize("adapter", ["none", "qlora"])
def test_dpo(shell, adapter) -> None:
    """If this failed, DPO would not start at ln 2, or not prefer what it was told to prefer."""
    place, settings = f"runs/dpo-{adapter}", [*FEW, "train.lr=0.01", f"adapter={adapter}"]
    told = shell("train", "dpo", "base=runs/chat", "data=judged.jsonl", *settings, "--out", place)
    assert f"next:   lmcraft chat {place}" in told
    rows = Run.open(place).metrics()
    assert rows[0]["loss"] == pytest.approx(0.693147, abs=1e-5) and rows[0]["reward_gap"] == pytest.approx(
        0, abs=1e-5
    )
    assert rows[-1]["loss"] < 0.5 and rows[-1]["reward_gap"] > 0.3 and rows[-1]["accuracy"] == 1
    assert Run.open(place).samples()[0]["prompt"].startswith("is it")
    loaded = lmcraft.load(place)
    assert loaded.template is not None and loaded.model.generates


@pytest.mark.parametrize(
    "loss,data", [("ipo", "judged"), ("kto", "rated"), ("kto", "judged"), ("orpo", "judged")]
)
def test_other_losses(shell, loss, data) -> None:
    """If this failed, a loss would be named in the help that cannot be used."""
    place = f"runs/{loss}-{data}"
    shell("train", "dpo", "base=runs/chat", f"data={data}.jsonl", f"stage.loss={loss}", *FEW, "train.lr=0.003",
          "--out", place)  # fmt: skip
    rows = Run.open(place).metrics()
    first, last = rows[0], rows[-1]
    if loss == "kto":  # its baseline moves with the policy, so its loss says little
        assert first["loss"] == pytest.approx(0.5, abs=1e-4)
        good, bad = (
            [row[name] for row in rows if name in row] for name in ("chosen_reward", "rejected_reward")
        )
        assert good[-1] - bad[-1] > 0.05
    else:
        assert last["loss"] < first["loss"]
    assert last["eval_loss"] > 0


def test_a_base_without_template_reads_plain_text(shell, folder) -> None:
    """If this failed, a base model would be judged on marks that it has never seen."""
    shell("train", "reward", "base=runs/book", "data=judged.jsonl", *FEW, "--out", "runs/plain")
    assert lmcraft.load("runs/plain").template is None
    tokens = json.loads(Path("runs/plain/data.json").read_text())["preview"][0]["tokens"]
    assert not any("im_start" in text for text, _ in tokens)


def test_a_resumed_run_has_the_same_reference(shell, folder, capsys) -> None:
    """If this failed, a run that goes on after its base was changed would be pulled to another policy, unseen."""
    config = ["data=judged.jsonl", *FEW, "train.lr=0.01"]
    shell("train", "sft", "base=runs/book", "data=chats.jsonl", *FEW, "--out", "runs/base")
    steps = lmcraft.train("dpo", ["base=runs/base", *config], "runs/again")
    for step in steps:
        if step.number == 7:
            break
    steps.close()
    rest = [step.loss for step in lmcraft.train("dpo", ["base=runs/base", *config], "runs/again")]
    whole = [step.loss for step in lmcraft.train("dpo", ["base=runs/base", *config], "runs/whole")]
    assert rest == whole[7:]
    for step in lmcraft.train("dpo", ["base=runs/base", *config], "runs/changed"):
        if step.number == 3:
            break
    weights = Path("runs/base/model/model.safetensors")
    weights.write_bytes(Path("runs/book/model/model.safetensors").read_bytes())
    code = run(["train", "dpo", "base=runs/base", *config, "--out", "runs/changed"])
    assert code == 2 and "the base, or the reference, has changed" in capsys.readouterr().err


@pytest.mark.parametrize("stage", ["reward", "dpo"])
@pytest.mark.parametrize("adapter", ["none", "lora"])
def test_it_can_be_planned(shell, stage, adapter) -> None:
    """If this failed, nobody could know beforehand whether a preference training fits."""
    made = shell("plan", stage, "base=runs/chat", "data=judged.jsonl", f"adapter={adapter}", "--json")
    assert made["peak_bytes"] > 0


def test_wrong_data_is_named(shell, folder, capsys) -> None:
    """If this failed, a user would see a traceback, or train on rows that say nothing."""
    (folder / "bad.jsonl").write_text('{"prompt": "q", "chosen": "a", "rejected": "b", "weight": "much"}\n')
    assert run(["train", "reward", "base=runs/chat", "data=bad.jsonl", "--out", "runs/bad"]) == 2
    assert "bad.jsonl:1: weight must be a number, found 'much'" in capsys.readouterr().err
    assert run(["train", "dpo", "base=runs/chat", "data=rated.jsonl", "--out", "runs/bad"]) == 2
    assert "stage.loss=kto" in capsys.readouterr().err
