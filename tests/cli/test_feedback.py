"""`lmcraft feedback`: a person at the queue, programs that rate, agreement, exports, mistakes told in a few lines."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sqlalchemy", reason="the extra `feedback` is not installed")

from lmcraft.cli import main
from lmcraft.data.load import load

Call = Callable[..., dict[str, Any]]
HOSTILE = "\x1b[2J\x1b]0;title\x07 \u202egnp.exe <b>bold</b>"


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Runs a verb of `lmcraft feedback` in a folder of its own; what its JSON says."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LMCRAFT_FEEDBACK_DB", raising=False)

    def run(*words: object, typed: str = "", code: int = 0) -> dict[str, Any]:
        monkeypatch.setattr("sys.stdin", io.StringIO(typed))
        capsys.readouterr()
        assert main.run(["feedback", *map(str, words), "--json"]) == code
        said = capsys.readouterr()
        run.shown = said.err
        return json.loads(said.out)

    return run


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a project of two criteria and 12 items, each with a good and a bad answer."""
    folder = tmp_path_factory.mktemp("begun")
    rows = [
        {"prompt": f"How was day {i}?", "id": f"day-{i}",
         "answers": [{"text": f"Day {i} was wonderful, I loved it.", "model": "good"},
                     {"text": f"Day {i} was horrible.", "model": "bad"}]}
        for i in range(12)
    ]  # fmt: skip
    (folder / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("LMCRAFT_FEEDBACK_DB", raising=False)
        assert main.run(["feedback", "new", "helpful", "--criteria", "coherence,safety:0-1"]) == 0
        assert main.run(["feedback", "add", "helpful", "answers.jsonl"]) == 0
    return folder


@pytest.fixture
def project(begun: Path, tmp_path: Path, call: Call) -> Call:
    """`call` in a copy of that folder."""
    shutil.copytree(begun, tmp_path, dirs_exist_ok=True)
    return call


def ratings(call: Call) -> list[dict[str, Any]]:
    call("export", "helpful", "all.jsonl", "--to", "ratings", "--history", "--overwrite")
    return [json.loads(line) for line in Path("all.jsonl").read_text().splitlines()]


def test_a_person_works_through_the_queue(project: Call) -> None:
    """If this failed, what a person typed would be kept as something else."""
    typed = "5\n3\n1\n0\n1\n4\n4\n1\n1\n=\nc a thought\n2\n2\n0\n0\n0\nq\n"
    done = project("rate", "helpful", "--rater", "ann", typed=typed)
    assert (done["rate"], done["interrupted"]) == (3, False)
    assert "coherence, 1 to 5" in project.shown and "1 of 12" in project.shown and "3 of 12" in project.shown
    first, second, third = ratings(project)
    left, right = map(str, first["judgement"]["shown"])
    assert first["judgement"]["scores"] == {
        left: {"coherence": 5, "safety": 1}, right: {"coherence": 3, "safety": 0},
    }  # fmt: skip
    assert first["judgement"]["choice"] == int(left) and first["judgement"]["seconds"] >= 0
    assert (second["judgement"]["choice"], third["judgement"]["choice"]) == ("tie", "both bad")
    assert third["judgement"]["comment"] == "a thought" and not third["simulated"]
    assert "good" not in project.shown, "the rater was told who wrote an answer"


def test_undo_skip_flag_and_wrong_answers(project: Call) -> None:
    """If this failed, a slip of the finger would stay, or end the session."""
    typed = "5\n3\n1\n0\n1\nu\nhello\n9\n1\n1\n0\n0\n2\nc unclear\ns\nc an address\nf\n?\nu\nq\n"
    done = project("rate", "helpful", "--rater", "ann", typed=typed)
    assert {name: done[name] for name in ("rate", "skip", "flag", "undo")} == {
        "rate": 2, "skip": 1, "flag": 1, "undo": 2,
    }  # fmt: skip
    assert "'hello' is no answer" in project.shown and "'9' is no answer" in project.shown
    kept = ratings(project)
    assert [row["action"] for row in kept] == ["rate", "undo", "rate", "skip", "flag", "undo"]
    assert kept[0]["item"] == kept[2]["item"] and kept[3]["judgement"] == {"comment": "unclear"}
    (status,) = project("status", "helpful")["projects"]
    (ann,) = status["raters"]
    assert (ann["rate"], ann["skip"], ann["flag"]) == (1, 1, 0)


def test_the_order_on_the_screen_is_even_and_recorded(project: Call) -> None:
    """If this failed, one model would always stand first, and win for that."""
    for number in range(4):
        project(
            "rate", "helpful", "--rater", f"rater-{number}", "--seed", number, typed="3\n3\n1\n1\n1\n" * 12
        )
    shown = [tuple(row["judgement"]["shown"]) for row in ratings(project)]
    assert len(shown) == 48 and abs(shown.count((0, 1)) - 24) < 3 * (48 / 4) ** 0.5


def test_a_ranking_of_three(call: Call, tmp_path: Path) -> None:
    """If this failed, more than two answers could not be rated, or in the wrong order."""
    (tmp_path / "three.jsonl").write_text(json.dumps({"prompt": "?", "answers": ["a", "b", "c"]}))
    call("new", "helpful")
    call("add", "helpful", "three.jsonl")
    assert call("rate", "helpful", "--rater", "ann", typed="1 1 2\n312\n")["rate"] == 1
    (row,) = ratings(call)
    shown = row["judgement"]["shown"]
    assert row["judgement"]["ranking"] == [shown[2], shown[0], shown[1]]


def test_texts_of_models_cannot_act_on_the_terminal(call: Call, tmp_path: Path) -> None:
    """If this failed, an answer could clear the screen or hide its other half from the rater."""
    (tmp_path / "h.jsonl").write_text(json.dumps({"prompt": HOSTILE, "answers": [HOSTILE, "b"]}))
    call("new", "helpful")
    call("add", "helpful", "h.jsonl")
    call("rate", "helpful", "--rater", "ann", typed="1\n")
    assert "\x1b" not in call.shown and "\u202e" not in call.shown and "<b>bold</b>" in call.shown
    assert ratings(call)[0]["prompt"][0]["content"] == HOSTILE


def test_nothing_kept_is_lost_when_the_rater_presses_ctrl_c(project: Call, tmp_path: Path) -> None:
    """If this failed, an hour of work could be gone with two keys."""
    command = [sys.executable, "-m", "lmcraft", "feedback", "rate", "helpful", "--rater", "ann"]
    started = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        # A shell's background job ignores the signal, and so would its children.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )
    started.stdin.write("5\n3\n1\n0\n1\n5\n")
    started.stdin.flush()
    seen = ""
    while "kept" not in seen or not seen.rstrip().endswith("5\ncoherence of [2], 1 to 5 >"):
        seen += started.stdout.read(1)
    os.kill(started.pid, signal.SIGINT)
    rest, said = started.communicate(timeout=60)
    assert started.returncode == 130 and "Traceback" not in said and "1 rated" in rest
    assert [row["action"] for row in ratings(project)] == ["rate"]
    assert project("rate", "helpful", "--rater", "ann", typed="")["rate"] == 0


def test_programs_rate_agree_and_are_marked_everywhere(project: Call) -> None:
    """If this failed, somebody could take the ratings of programs for those of people."""
    pytest.importorskip("vaderSentiment")
    assert project("simulate", "helpful", "--rater", "vader")["rated"] == 12
    assert project("simulate", "helpful", "--rater", "vader")["rated"] == 0
    project("simulate", "helpful", "--rater", "length", "--name", "long", "--temperature", 0)
    project("simulate", "helpful", "--rater", "regex:loved", "--temperature", 0)
    assert project("agreement", "helpful")["questions"] == []
    found = project("agreement", "helpful", "--who", "all")
    names = ["long", "simulated-regex:loved", "simulated-vader"]
    assert found["simulated"] == names and [one["question"] for one in found["questions"]] == [
        "preference", "coherence", "safety",
    ]  # fmt: skip
    assert all(line["simulated"] for line in found["reliability"])
    (status,) = project("status", "helpful")["projects"]
    assert [(line["rater"], line["simulated"]) for line in status["raters"]] == [
        (name, True) for name in names
    ]
    assert project("export", "helpful", "none.jsonl", "--to", "preferences")["files"] == {"none.jsonl": 0}
    made = project("export", "helpful", "p.jsonl", "--to", "preferences", "--who", "simulated")
    assert made["simulated"] == names
    assert all(json.loads(line)["simulated"] for line in Path("p.jsonl").read_text().splitlines())


def test_people_read_that_programs_rated(project: Call, capsys: pytest.CaptureFixture[str]) -> None:
    """If this failed, only readers of JSON would learn that raters were simulated."""
    for words in (["simulate", "helpful", "--rater", "length"], ["agreement", "helpful", "--who", "all"], ["status"],
                  ["export", "helpful", "p.jsonl", "--to", "preferences", "--who", "all"],
                  ["export", "helpful", "v.jsonl", "--to", "votes", "--who", "all"]):  # fmt: skip
        capsys.readouterr()
        assert main.run(["feedback", *words]) == 0
        assert "simulated" in capsys.readouterr().out


def test_preferences_are_held_out_weighted_and_filtered(project: Call) -> None:
    """If this failed, the options of the export would promise what they do not do."""
    for name, more in (("a", []), ("b", []), ("c", []), ("bad", ["--adversarial"])):
        project("simulate", "helpful", "--rater", "regex:loved", "--name", name, "--temperature", 0, *more)
    options = ["--to", "preferences", "--who", "all", "--overwrite"]
    made = project("export", "helpful", "p.jsonl", *options, "--held-out", 0.3, "--drop-unreliable")
    assert made["dropped_raters"] == ["bad"] and sum(made["files"].values()) == 12
    train, held = (load(file).require().records for file in made["files"])
    assert train and held and not {pair.prompt for pair in train} & {pair.prompt for pair in held}
    rows = [json.loads(line) for line in Path("p.jsonl").read_text().splitlines()]
    assert {row["chosen_model"] for row in rows} == {"good"} and {row["raters"] for row in rows} == {3}
    assert project("export", "helpful", "p.jsonl", *options, "--min-agreement", 0.8)["left_out"] == {
        "too little agreement": 12
    }
    weights = ["--weight", "safety=0", "--weight", "coherence=1", "--weight-by", "raters"]
    project("export", "helpful", "p.jsonl", *options, "--exclude", "bad", *weights)
    row = json.loads(Path("p.jsonl").read_text().splitlines()[0])
    assert (row["margin"], row["margin_unit"], row["weight"]) == (4.0, "rating", 3.0)


def test_ratings_move_to_another_database(project: Call) -> None:
    """If this failed, a project could not be moved from a laptop to a server."""
    project("simulate", "helpful", "--rater", "length")
    project("export", "helpful", "r.jsonl", "--to", "ratings")
    project("new", "copy", "--criteria", "coherence,safety:0-1", "--db", "other.db")
    assert project("import", "copy", "r.jsonl", "--db", "other.db")["ratings_new"] == 12
    assert project("import", "copy", "r.jsonl", "--db", "other.db")["ratings_present"] == 12
    assert project("status", "--db", "sqlite:///other.db")["projects"][0]["rated_items"] == 12


def test_guidelines_can_be_changed_and_are_shown(project: Call, tmp_path: Path) -> None:
    """If this failed, raters would read words that nobody wrote for them."""
    (tmp_path / "g.yaml").write_text("text: Be kind.\ncriteria: [{name: tone, low: -1, high: 1}]\n")
    changed = project("guidelines", "helpful", "--guidelines", "g.yaml")
    assert (changed["version"], changed["text"]) == (2, "Be kind.")
    project("rate", "helpful", "--rater", "ann", typed="-1\n1\n1\n")
    assert "Be kind." in project.shown and ratings(project)[0]["guidelines"] == 2


def test_guidelines_that_change_while_somebody_rates_are_shown(
    project: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If this failed, ratings would be kept under a version of the guidelines that their rater has not read."""
    from lmcraft.cli import asking
    from lmcraft.feedback.guidelines import Guidelines

    judge = asking.Session._judge

    def judged(session: asking.Session, item: object) -> None:
        judge(session, item)
        session.project.set_guidelines(Guidelines(text="Only compare."))

    monkeypatch.setattr(asking.Session, "_judge", judged)
    assert project("rate", "helpful", "--rater", "ann", typed="5\n3\n1\n0\n1\n2\nq\n")["rate"] == 2
    assert "have changed" in project.shown and "Only compare." in project.shown
    assert [row["guidelines"] for row in ratings(project)] == [1, 2]


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["status", "helpfull"], "did you mean 'helpful'"),
        (["new", "helpful"], "already"),
        (["new", "x", "--criteria", "Safety!"], "is no criterion"),
        (["add", "helpful", "none.jsonl"], "no such data file"),
        (["simulate", "helpful", "--rater", "vadr"], "did you mean 'vader'"),
        (["simulate", "helpful", "--rater", "length", "--temperature", "nan"], "temperature"),
        (["agreement", "helpful", "--who", "robots"], "no raters called"),
        (["agreement", "helpful", "--level", "ratio"], "no level"),
        (["export", "helpful", "p.jsonl", "--to", "preference"], "did you mean 'preferences'"),
        (["export", "helpful", "p.csv", "--to", "votes"], "JSON Lines"),
        (["export", "helpful", "answers.jsonl", "--to", "votes"], "such a file already"),
        (["export", "helpful", "p.jsonl", "--to", "preferences", "--weight", "safety"], "is no weight"),
        (
            ["export", "helpful", "p.jsonl", "--to", "preferences", "--weight", "beauty=1"],
            "no criterion beauty",
        ),
        (["export", "helpful", "p.jsonl", "--to", "preferences", "--margin", "big"], "margin"),
        (["import", "helpful", "answers.jsonl"], "cannot be used"),
        (["status", "--db", "answers.jsonl"], "cannot be used"),
    ],
)
def test_mistakes_are_told_in_one_document(project: Call, words: list[str], what: str) -> None:
    """If this failed, a slip would end in a traceback, or a program would get something else than JSON."""
    error = project(*words, code=2)["error"]
    assert what in f"{error['what']} {error['where']} {error['why']}"
