"""Recipes: short forms, stage and model by name, files and arguments, mistakes with their places."""

from __future__ import annotations

import pytest

from lmcraft import recipe
from lmcraft.core import config as configs
from lmcraft.core.errors import UserError
from lmcraft.models import decoder, rnn
from lmcraft.stages import pretrain, sft

YAML = """\
stage: sft
data:
  files: [a.jsonl, b.jsonl]
  holdout: 0.1
model:
  preset: tiny
  layers: 3
train:
  lr: 1e-4
  optim: {kind: adamw}
seed: 7
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(YAML)
    return path


def test_from_a_file(file):
    """A failure would mean that a setting in the file is not used."""
    found = recipe.read(file)
    assert found.stage == sft.Config() and found.seed == 7
    assert found.data.files == ("a.jsonl", "b.jsonl") and found.data.holdout == 0.1
    assert (found.model.layers, found.model.width) == (3, 256)
    assert found.train.lr == 1e-4 and found.train.optim.kind == "adamw" and found.train.optim.momentum == 0.95


def test_from_the_name_of_a_stage():
    """A failure would mean that the shortest command does not work."""
    found = recipe.read("pretrain", ["data=book.txt"])
    assert found.stage == pretrain.Config() and found.data.files == ("book.txt",)
    assert found.model == decoder.Config() and found.base is None


def test_arguments_win_and_leave_the_rest(file):
    """A failure would mean that one argument throws away its whole group."""
    found = recipe.read(file, ["train.lr=0.5", "model.layers=9", "data.holdout=0", "seed=1"])
    assert (found.train.lr, found.train.optim.kind) == (0.5, "adamw")
    assert (found.model.layers, found.model.preset, found.data.holdout, found.seed) == (9, "tiny", 0, 1)
    assert found.data.files == ("a.jsonl", "b.jsonl")


def test_a_stage_has_an_optimizer_of_its_own_and_the_user_the_last_word(tmp_path):
    """A failure would mean that PPO does not get what was proved with, or that a run is not recognised as the same."""
    found = recipe.read("ppo", ["data=chats.jsonl", "stage.reward=vader"])
    assert (found.train.optim.kind, found.train.optim.eps) == ("adamw", 1e-5)
    (tmp_path / "config.yaml").write_text(configs.dump(found))
    assert recipe.read(tmp_path / "config.yaml").train == found.train
    other = recipe.read("ppo", ["data=chats.jsonl", "stage.reward=vader", "train.optim.eps=1e-8"])
    assert (other.train.optim.kind, other.train.optim.eps) == ("adamw", 1e-8)


@pytest.mark.parametrize(
    "arguments",
    [
        ["data=x.txt", "data.context=32", "model=nano", "model.context=64", "tokenizer=dir"],
        ["data.context=32", "data=x.txt", "model.context=64", "model=nano", "tokenizer.path=dir"],
        ["data.files=[x.txt]", "data.context=32", "model.preset=nano", "model.context=64", "tokenizer=dir"],
    ],
)  # fmt: skip
def test_short_forms_in_any_order(arguments):
    """A failure would mean that `model=nano model.context=64` forgets one of the two."""
    found = recipe.read("pretrain", arguments)
    assert (found.data.files, found.data.context) == (("x.txt",), 32)
    assert (found.model.preset, found.model.context, found.model.width) == ("nano", 64, 64)
    assert found.tokenizer.path == "dir"


def test_short_forms_in_a_file(tmp_path):
    """A failure would mean that the short form works in one place and not in the other."""
    path = tmp_path / "r.yaml"
    path.write_text("stage: pretrain\ndata: [a.txt, b.txt]\nmodel: nano\ntokenizer: dir\n")
    found = recipe.read(path, ["data.context=16"])
    assert found.data.files == ("a.txt", "b.txt") and found.data.context == 16
    assert found.model.width == 64 and found.tokenizer.path == "dir"
    path.write_text("stage: pretrain\ndata: a.txt\n")
    assert recipe.read(path).data.files == ("a.txt",)


def test_the_model_is_chosen_by_kind():
    """A failure would mean that an option of one model is taken for another's."""
    found = recipe.read("pretrain", ["data=x", "model.kind=rnn", "model.cell=rnn", "model=nano"])
    assert found.model == rnn.Config(preset="nano", cell="rnn")
    with pytest.raises(UserError, match="heads"):
        recipe.read("pretrain", ["data=x", "model.kind=rnn", "model.heads=2"])


def test_a_base_has_its_own_shape():
    """A failure would mean that `model.layers=2` beside a base is silently ignored."""
    assert recipe.read("sft", ["data=x", "base=runs/a"]).model is None
    with pytest.raises(UserError, match="both given") as caught:
        recipe.read("sft", ["data=x", "base=runs/a", "model.layers=2"])
    assert "model.layers=2" in caught.value.where or "model" in caught.value.where


def test_what_is_written_is_read_again(file, tmp_path):
    """A failure would mean that the config of a run cannot be used to repeat it."""
    for found in (
        recipe.read(file),
        recipe.read("pretrain", ["data=x", "model.kind=rnn", "sample.prompts=[a, b]"]),
    ):
        copy = tmp_path / "copy.yaml"
        copy.write_text(configs.dump(found))
        assert recipe.read(copy).model_dump() == found.model_dump()


@pytest.mark.parametrize(
    "arguments,parts",
    [
        (["data=x", "train.lrr=1"], ["train.lrr=1", "lr"]),
        (["data=x", "train.lr=-1"], ["train.lr=-1", "greater than 0"]),
        (["data=x", "train.lr=fast"], ["train.lr=fast"]),
        (["data=x", "model.kind=transfromer"], ["transfromer", "decoder"]),
        (["data=x", "model=huge"], ["huge", "nano"]),
        (["data=x", "stage.overflow=never"], ["stage.overflow=never", "split"]),
        (["data=x", "seed=-1"], ["seed=-1"]),
        ([f"seed={2**200}", "data=x"], ["seed"]),
        ([], ["data"]),
        (["data.files=[]"], ["data.files"]),
    ],
    ids=str,
)  # fmt: skip
def test_mistakes_are_named_with_their_argument(arguments, parts):
    """A failure would mean that a typing error is ignored, or told without its place."""
    with pytest.raises(UserError) as caught:
        recipe.read("sft", arguments)
    for part in parts:
        assert part in str(caught.value)


def test_all_mistakes_of_a_file_at_once(tmp_path):
    """A failure would mean mending one mistake per start."""
    path = tmp_path / "r.yaml"
    path.write_text("stage: sft\ndata: x\ntrain:\n  lr: -1\n  stepps: 3\nseeed: 1\n")
    with pytest.raises(UserError) as caught:
        recipe.read(path)
    text = str(caught.value)
    for line in (4, 5, 6):
        assert f"{path}:{line}" in text
    assert "steps" in text and "seed" in text


@pytest.mark.parametrize(
    "source,parts", [("prtrain", ["prtrain", "pretrain"]), ("missing.yaml", ["missing.yaml"])]
)
def test_unknown_sources(source, parts, tmp_path, monkeypatch):
    """A failure would mean a traceback for a typing error in the first word."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        recipe.read(source, ["data=x"])
    for part in parts:
        assert part in str(caught.value)


@pytest.mark.parametrize("text", ["", "seed: 1\n", "stage: {}\n", "stage: [sft]\n", "stage: 3\n"])
def test_a_file_without_a_stage(tmp_path, text):
    """A failure would mean a guess at what should be trained."""
    path = tmp_path / "r.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        recipe.read(path)
    assert "pretrain" in str(caught.value) or "stage" in str(caught.value)
