"""`lmcraft study` lists the questions and answers one, for people and for programs."""

from __future__ import annotations

import json
from pathlib import Path

SMALL = (
    "steps=2 batch_size=4 distance=6 items=2 lrs=[0.01] rnn_width=8 lstm_width=8 attention_width=8 measured_rows=8 "
    "gradient_rows=2"
)


def test_the_list_says_what_each_study_asks(lmcraft) -> None:
    """If this failed, nobody would find the studies."""
    shown = lmcraft("study")
    assert shown.returncode == 0 and "How far back can a network learn to remember?" in shown.stdout
    listed = json.loads(lmcraft("study", "--json").stdout)["studies"]
    assert "long-memory" in listed and all(question.endswith("?") for question in listed.values())


def test_a_study_answers_in_json_and_for_people(lmcraft, tmp_path: Path) -> None:
    """If this failed, a study could not be used by a program, or would not say where its page is."""
    done = lmcraft("study", "long-memory", *SMALL.split(), "--seed", 3, "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (
        result["config"]["seed"] == 3
        and result["finding"]["claim"]
        and result["report"].endswith("report.html")
    )
    assert (
        json.loads((tmp_path / "runs/study-long-memory/study.json").read_text())["finding"]
        == result["finding"]
    )
    again = lmcraft("study", "long-memory", *SMALL.split())
    assert (
        again.returncode == 2
        and "finished study here already" in again.stderr
        and "Traceback" not in again.stderr
    )
    told = lmcraft("study", "long-memory", *SMALL.split(), "--out", "b")
    assert (
        told.returncode == 0 and result["question"] in told.stdout and "report: b/report.html" in told.stderr
    )
    rewritten = lmcraft("report", "b")
    assert rewritten.returncode == 0 and rewritten.stdout.strip() == "b/report.html"


def test_mistakes_are_told_in_a_few_lines(lmcraft) -> None:
    """If this failed, a slip of the finger would be a traceback."""
    for arguments, told in (
        (("long-memry",), "did you mean 'long-memory'"),
        (("steps=3",), "the first argument is the name of a study"),
        (("long-memory", "steps=-1"), "greater than 0"),
    ):
        done = lmcraft("study", *arguments)
        assert done.returncode == 2 and told in done.stderr and "Traceback" not in done.stderr
