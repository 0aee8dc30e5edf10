"""Settings that only say how often to save or look do not change what is learned; stop and resume change nothing."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from lmcraft import api
from lmcraft.core.errors import UserError
from lmcraft.data import synthetic
from lmcraft.train import checkpoint

STEPS = 12


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    torch.set_num_threads(1)
    file = tmp_path_factory.mktemp("data") / "chats.jsonl"
    lines = [
        json.dumps({"messages": [{"role": m.role, "content": m.content} for m in chat.messages]})
        for chat in synthetic.conversations(40, seed=2)
    ]
    file.write_text("\n".join(lines) + "\n")
    return file


def settings(data, **changed) -> list[str]:
    given = {
        "data": data, "model": "nano", "model.width": 16, "model.context": 48, "model.dropout": 0.2,
        "tokenizer.vocab": 280, "train.steps": STEPS, "train.batch_size": 4, "train.precision": "fp32",
        "sample.max_new_tokens": 2, "train.save_every": 4, "train.eval_every": 5, "train.keep": 2, "seed": 3,
    }  # fmt: skip
    return [f"{name}={value}" for name, value in (given | changed).items()]


def finished(place) -> dict[str, torch.Tensor]:
    """Everything of the last checkpoint, by name."""
    found, faults = checkpoint.newest(place / "checkpoints")
    assert found is not None and found.step == STEPS and not faults
    return {f"{part}/{name}": t for part, tensors in found.tensors.items() for name, t in tensors.items()}


def train(place, data, stage="sft", **changed) -> dict[str, torch.Tensor]:
    for _ in api.train(stage, settings(data, **changed), place):
        pass
    return finished(place)


def assert_same_bits(found, expected) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


@pytest.fixture(scope="module")
def reference(data, tmp_path_factory):
    return train(tmp_path_factory.mktemp("reference") / "run", data)


def test_the_same_seed_gives_the_same_bits(data, reference, tmp_path):
    """A difference would mean that no result here can be repeated."""
    assert_same_bits(train(tmp_path / "run", data), reference)


def test_another_seed_gives_another_result(data, reference, tmp_path):
    """If this fails, the tests of this file compare things that cannot differ."""
    other = train(tmp_path / "run", data, seed=4)
    assert any(not torch.equal(other[name], tensor) for name, tensor in reference.items() if "model/" in name)


@pytest.mark.parametrize(
    "changed",
    [
        {"train.save_every": 1}, {"train.save_every": 1000}, {"train.eval_every": 1}, {"train.eval_every": 1000},
        {"train.keep": 5, "train.save_every": 2}, {"train.eval_rows": 1, "train.eval_every": 2},
        {"sample.max_new_tokens": 9, "sample.temperature": 0}, {"sample.prompts": "[hello]"},
    ],
    ids=str,
)  # fmt: skip
def test_looking_and_saving_do_not_change_what_is_learned(data, reference, tmp_path, changed):
    """A difference would mean that watching a run changes it: its random numbers are shared with something else."""
    assert_same_bits(train(tmp_path / "run", data, **changed), reference)


@pytest.mark.parametrize("kind", ["decoder", "rnn"])
def test_stopping_after_any_step_changes_nothing(data, tmp_path, kind):
    """A difference would mean that a run that was interrupted is another run (trap 20)."""
    changed = {} if kind == "decoder" else {"model": "nano", "model.kind": "rnn"}
    expected = train(tmp_path / "whole", data, **changed)
    stops = range(1, 11) if kind == "decoder" else (1, 6)
    for stop in stops:
        place = tmp_path / f"stopped-{stop}"
        for step in api.train("sft", settings(data, **changed), place):
            if step.number == stop:
                break
        numbers = [step.number for step in api.train("sft", settings(data, **changed), place)]
        assert numbers == list(range(stop + 1, STEPS + 1))
        assert_same_bits(finished(place), expected)


def test_stopping_after_every_step_changes_nothing(data, reference, tmp_path):
    """A difference would mean that small losses at each restart add up."""
    for expected in range(1, STEPS + 1):
        for step in api.train("sft", settings(data), tmp_path / "run"):
            assert step.number == expected
            if step.number < STEPS:
                break
    assert_same_bits(finished(tmp_path / "run"), reference)
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    steps = asked(tmp_path / "run")
    assert steps == sorted(steps) and set(steps) == {0, STEPS} and steps.count(0) == steps.count(STEPS)


def asked(place) -> list[int]:
    """The steps at which samples were taken."""
    return [json.loads(line)["step"] for line in (place / "samples.jsonl").read_text().splitlines()]


def test_killed_before_the_first_checkpoint(data, reference, tmp_path):
    """A failure would mean that a run killed early begins with rows and samples of the run that died."""
    for step in api.train("sft", settings(data), tmp_path / "run"):
        if step.number == 3:
            break
    shutil.rmtree(tmp_path / "run" / "checkpoints")  # what a kill before the first save leaves
    assert_same_bits(train(tmp_path / "run", data), reference)
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    assert asked(tmp_path / "run").count(0) == asked(tmp_path / "run").count(STEPS)


def test_killed_after_the_last_checkpoint(data, reference, tmp_path):
    """A failure would mean a run without model, or with its last samples twice."""
    train(tmp_path / "run", data)
    before = asked(tmp_path / "run"), (tmp_path / "run" / "model" / "model.safetensors").read_bytes()
    shutil.rmtree(tmp_path / "run" / "model")
    state = json.loads((tmp_path / "run" / "state.json").read_text())
    (tmp_path / "run" / "state.json").write_text(json.dumps(state | {"status": "running"}))
    assert_same_bits(train(tmp_path / "run", data), reference)
    assert (
        asked(tmp_path / "run"),
        (tmp_path / "run" / "model" / "model.safetensors").read_bytes(),
    ) == before


def test_a_save_that_fails_when_training_is_left_is_told(data, tmp_path, monkeypatch):
    """A failure would mean that somebody leaves a notebook in the belief that everything is saved."""
    steps = api.train("sft", settings(data), tmp_path / "run")
    next(steps)

    def full(*_: object) -> None:
        raise UserError("the disk is full")

    monkeypatch.setattr(checkpoint, "save", full)
    with pytest.raises(UserError, match="disk is full"):
        steps.close()


def test_a_finished_run_is_not_trained_again(data, tmp_path, capsys):
    """A failure would mean that repeating a command destroys or changes a result, or claims other settings."""
    before = train(tmp_path / "run", data)
    assert list(api.train("sft", settings(data), tmp_path / "run")) == []
    assert "finished already" in capsys.readouterr().err
    assert_same_bits(finished(tmp_path / "run"), before)


def test_other_settings_for_the_same_run_are_refused(data, tmp_path):
    """A failure would mean that half a run has one learning rate and half another."""
    for step in api.train("sft", settings(data), tmp_path / "run"):
        if step.number == 2:
            break
    with pytest.raises(UserError, match="other settings") as caught:
        list(api.train("sft", settings(data, **{"train.lr": 0.5}), tmp_path / "run"))
    assert "train.lr" in caught.value.why and "0.5" in caught.value.why


def test_other_data_for_the_same_run_is_refused(data, tmp_path):
    """A failure would mean that a resumed run trains on rows that its log does not name."""
    mine = tmp_path / "mine.jsonl"
    mine.write_text(data.read_text())
    for step in api.train("sft", settings(mine), tmp_path / "run"):
        if step.number == 2:
            break
    mine.write_text(data.read_text().replace("apple", "peach"))
    with pytest.raises(UserError, match="data has changed"):
        list(api.train("sft", settings(mine), tmp_path / "run"))


def test_micro_batches_change_nothing_but_rounding(data, reference, tmp_path):
    """A difference would mean that a machine with less memory learns something else (see test_accumulation.py)."""
    whole = train(tmp_path / "whole", data, **{"model.dropout": 0.0})
    found = train(tmp_path / "run", data, **{"model.dropout": 0.0, "train.micro_batch_size": 1})
    for name, tensor in whole.items():
        if name.startswith("model/"):
            torch.testing.assert_close(found[name], tensor, rtol=0, atol=2e-4)
