"""The sentences say what happened, and the commands can be typed as they stand."""

from __future__ import annotations

import shlex

import pytest

from lmcraft.report import facts, story


def commands(run) -> list[str]:
    return [command.line for command in story.next_commands(facts.read(run))]


def test_what_happened_is_told_in_plain_words(make_run) -> None:
    """If this failed, a reader would have to put the story together from tables."""
    base = make_run("base")
    told = " ".join(story.sentences(facts.read(base))).replace("\u00a0", " ")
    assert told == (
        "A new decoder model of 1.23 million parameters has been trained to predict the next token of talk.jsonl: "
        "90 conversations. It took 60 steps, 6 passes over the data, 60,000 trained tokens in 1 min 15 s. "
        "The held-out loss fell from 2.550 to 2.517 nats per token (perplexity 12.4)."
    )
    tuned = " ".join(story.sentences(facts.read(make_run("tuned", "sft", parents=[base.path]))))
    assert tuned.startswith(
        "Starting from base, a model of 1.23 million parameters has been tuned to answer, on"
    )


def test_a_loss_that_rose_is_not_told_as_a_success(make_run) -> None:
    """If this failed, a failed training would read like a good one."""
    run = make_run(metrics=[{"step": 1, "loss": 2.0}, {"step": 2, "loss": 3.0}])
    assert "training loss rose from 2.000 to 3.000" in story.sentences(facts.read(run))[-1]


def test_after_pretraining_comes_tuning(make_run) -> None:
    """If this failed, a newcomer would not know what to do with a base model."""
    run = make_run("my base")
    tune, generate = commands(run)
    assert shlex.split(tune) == ["lmcraft", "train", "sft", f"base={run.path}", "data=talk.jsonl"]
    assert shlex.split(generate) == ["lmcraft", "generate", str(run.path), "Hello"]


def test_texts_are_no_data_for_tuning(make_run) -> None:
    """If this failed, the page would advise a command that ends in an error."""
    run = make_run(data={"files": {"book.txt": {"shape": "text"}}, "trained on": 1})
    pull, train = commands(run)[0].splitlines()
    assert pull == "lmcraft pull chitchat" and train.endswith("data=chitchat")


@pytest.mark.parametrize(
    "stage,unit,lines",
    [
        ("mask", "token", ["read {run} 'It was the [MASK] of it.'"]),
        ("classify", "text", ["read {run} 'a text'", "eval {run} labels"]),
        ("tag", "word", ["read {run} 'a sentence'", "eval {run} tags"]),
        ("embed", "pair", ["read {run} 'one text' 'another text'", "eval {run} retrieval"]),
    ],
)
def test_after_training_an_encoder_comes_reading(make_run, stage, unit, lines) -> None:
    """If this failed, the page would advise to generate with a model that cannot, or show a perplexity of classes."""
    run = make_run(stage=stage)
    told = [shlex.split(line) for line in commands(run)]
    assert told == [shlex.split(f"lmcraft {line.format(run=shlex.quote(str(run.path)))}") for line in lines]
    result = story.sentences(facts.read(run))[-1].replace("\u00a0", " ")
    assert f"nats per {unit}" in result and ("perplexity" in result) == (stage == "mask")


def test_after_tuning_comes_talking(make_run) -> None:
    """If this failed, a newcomer would not find the chat."""
    run = make_run(stage="sft")
    assert commands(run) == [f"lmcraft chat {run.path}"]


@pytest.mark.parametrize(
    ("command", "again"),
    [
        (
            ["/v/bin/lmcraft", "train", "sft", "data=a b"],
            ["lmcraft", "train", "sft", "data=a b", "--out", "RUN"],
        ),
        (["lmcraft", "train", "sft", "--out", "x"], ["lmcraft", "train", "sft", "--out", "x"]),
        (["lmcraft", "train", "sft", "out=x"], ["lmcraft", "train", "sft", "out=x"]),
        (
            ["/l/lmcraft/__main__.py", "train", "s", "--out=x"],
            ["python", "-m", "lmcraft", "train", "s", "--out=x"],
        ),
        (["lmcraft", "demo", "--minutes", "3"], ["lmcraft", "demo", "--minutes", "3"]),
        (["notebook.py"], ["lmcraft", "train", "RUN/config.yaml", "--out", "RUN"]),
        ([], ["lmcraft", "train", "RUN/config.yaml", "--out", "RUN"]),
    ],
)
def test_an_interrupted_run_goes_on_where_it_is(make_run, command: list[str], again: list[str]) -> None:
    """If this failed, the advised command would begin a second run instead of going on with this one."""
    run = make_run(status="interrupted", command=command)
    (line,) = commands(run)
    assert shlex.split(line) == [word.replace("RUN", str(run.path)) for word in again]
    assert "goes on from the last checkpoint" in " ".join(story.sentences(facts.read(run)))


def test_a_hostile_name_stays_one_argument(make_run) -> None:
    """If this failed, a copied command could run something that was hidden in a prompt or a path."""
    samples = [{"step": 0, "prompt": "'; rm -rf ~ #", "text": "", "finish_reason": "stop"}]
    run = make_run("$(reboot)", samples=samples)
    assert shlex.split(commands(run)[-1]) == ["lmcraft", "generate", str(run.path), "'; rm -rf ~ #"]


def test_a_prompt_that_cannot_be_typed_is_not_proposed(make_run) -> None:
    """If this failed, a line break in a prompt would split the command."""
    samples = [{"step": 0, "prompt": "a\nb", "text": "", "finish_reason": "stop"}]
    assert commands(make_run(samples=samples))[-1].endswith("'Once upon a time'")


def test_while_training_there_is_nothing_to_type(make_run) -> None:
    """If this failed, the page of a running training would advise to use a model that is not there yet."""
    run = make_run(status="running")
    with run.lock():
        assert commands(run) == []
