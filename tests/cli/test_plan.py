"""`lmcraft plan`, as a user would type it: before anything is there, and from a config.json alone."""

from __future__ import annotations

import json

import pytest

from lmcraft import fitting
from lmcraft.cli.main import run
from lmcraft.core.errors import UserError
from lmcraft.models import decoder, model, weights


@pytest.fixture
def config(tmp_path):
    """A public config.json without weights."""
    weights.save(
        model.build(decoder.Config(vocab=400, layers=2, width=32, heads=2, context=64)), tmp_path / "model"
    )
    (tmp_path / "model" / "model.safetensors").unlink()
    return tmp_path / "model" / "config.json"


def plan(capsys, *arguments: str) -> dict:
    capsys.readouterr()
    assert run(["plan", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_stage_is_planned_before_there_is_data(capsys):
    """A failure would mean that a person must fetch data to learn that a model does not fit."""
    small = plan(capsys, "pretrain", "model=nano", "train.batch_size=2")
    large = plan(capsys, "pretrain", "model=nano", "train.batch_size=16")
    assert 0 < small["peak_bytes"] < large["peak_bytes"] and small["seconds_per_step"] > 0
    assert small["peak_bytes"] == sum(small["parts"].values())


def test_a_config_alone_is_enough_and_a_smaller_way_is_found(config, capsys):
    """A failure would mean that weights must be downloaded to learn whether they fit."""
    whole = plan(capsys, str(config), "train.batch_size=16", "train.optim.kind=adamw")
    limit = int(whole["peak_bytes"] * 0.9)
    fitted = plan(capsys, str(config), "train.batch_size=16", "train.optim.kind=adamw", "--fit", str(limit))
    assert fitted["fits"] and fitted["peak_bytes"] <= limit and fitted["settings"] and fitted["costs"]


def test_a_table_for_people(capsys):
    """A failure would mean that `plan` prints nothing readable, or fails to say that its figure is a lower one."""
    assert run(["plan", "pretrain", "model=nano"]) == 0
    shown = capsys.readouterr().out
    assert "peak of one process" in shown and "leave room" in shown


def test_sizes_are_read_as_people_write_them():
    """A failure would mean that 8GB is taken for something else."""
    assert [fitting.size(text) for text in ("8GB", "500 MB", "2GiB", "64")] == [
        8 * 10**9,
        5 * 10**8,
        2 << 30,
        64,
    ]
    with pytest.raises(UserError, match="not a size"):
        fitting.size("much")
