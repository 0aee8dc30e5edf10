"""Every file of studies/ answers a question: with a claim that holds its numbers, a figure, and the same each time."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from lmcraft.core import find
from lmcraft.core.errors import UserError
from lmcraft.report.finding import Finding
from lmcraft.studies import study

# The smallest settings of each study; a new study adds its line here.
TINY = {
    "parallel": "lengths=[4,8] rows=2 vocab=9 layers=1 width=8 heads=2 lstm_layers=1 lstm_width=8 written=2 repeats=2",
    "scaling": "widths=[4,8,12] layers=1 head_width=4 context=12 batch_size=2 steps=2 words=20 classes=2 "
    "measured_rows=4",
    "in-context": "vocab=8 length=12 shortest=3 longest=5 width=8 wide=8 heads=2 steps=2 batch_size=4 every=1 "
    "measured_rows=4 inputs=3",
    "long-memory": "steps=2 batch_size=4 distance=6 items=2 lrs=[0.01] rnn_width=8 lstm_width=8 attention_width=8 "
    "measured_rows=8 gradient_rows=2",
    "lossy-knowledge": "facts=3 most=2 widths=[8,16] layers=1 batch_size=4",
    "style-not-knowledge": "known=3 asked=3 told=2 mentions=4 width=8 layers=1 epochs=1 seeds=2 measures=2",
    "translation": "lines=40 test_lines=2 joined=3 lengths=[6,12] width=8 layers=1 batch_size=4 steps=2",
}  # fmt: skip


def config(name: str, seed: int = 0):
    module = find.module("studies", name.replace("-", "_"))
    settings = [*TINY[name].split(), f"seed={seed}"]
    return module, study.configs.validate(module.Config, study.configs.read(None, settings))


def test_every_study_has_tiny_settings() -> None:
    """If this failed, a new study would not be tested here."""
    assert set(study.names()) == set(TINY)


@pytest.mark.parametrize("name", TINY)
def test_a_study_asks_in_one_sentence(name: str) -> None:
    """If this failed, the list of studies would have a line without a question."""
    module = find.module("studies", name.replace("-", "_"))
    assert (
        study.question(name) == module.QUESTION
        and module.QUESTION.endswith("?")
        and len(module.QUESTION) < 90
    )
    assert issubclass(module.Config, study.Settings)


@pytest.mark.parametrize("name", TINY)
def test_a_study_finds_the_same_again(name: str) -> None:
    """If this failed, a claim could not be checked: neither by its seed, nor by the numbers it rests on."""
    module, settings = config(name)
    found = [module.run(settings) for _ in range(2)]
    assert isinstance(found[0], Finding) and any(digit.isdigit() for digit in found[0].claim)
    assert found[0].figures and found[0].tables and found[0].method
    if getattr(module, "TIMES", False):  # what a clock says is never the same
        return
    assert found[0] == found[1]


def test_a_directory_is_written_once(tmp_path: Path) -> None:
    """If this failed, minutes of measuring could be lost to a second command with the same --out."""
    settings = TINY["long-memory"].split()
    directory, done = study.perform("long-memory", settings, tmp_path / "a")
    files = {file.name for file in directory.iterdir()}
    assert files == {"config.yaml", "study.json", "report.html", "long-memory.png"}
    assert shlex.split(done.command) == ["lmcraft", "study", "long-memory", *settings]
    with pytest.raises(UserError, match="finished study here already"):
        study.perform("long-memory", settings, tmp_path / "a")
    (directory / "study.json").unlink()  # as an interrupted one leaves it
    study.perform("long-memory", settings, tmp_path / "a")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="not a study and not empty"):
        study.perform("long-memory", settings, tmp_path / "b")


def test_names_and_settings_are_checked() -> None:
    """If this failed, a misspelt name or setting would be a traceback, or be ignored."""
    with pytest.raises(UserError, match="there is no study 'long-memry'; did you mean 'long-memory'"):
        study.perform("long-memry")
    with pytest.raises(UserError, match="stepz: unknown key; did you mean 'steps'"):
        study.perform("long-memory", ["stepz=3"])
