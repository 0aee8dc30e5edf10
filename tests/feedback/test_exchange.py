"""Files in and out: what is exported can be read again, here and by the rest of lmcraft, and nothing comes in twice."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from lmcraft.core.errors import UserError
from lmcraft.data.load import load
from lmcraft.data.records import Message, Vote
from lmcraft.feedback import export, reading
from lmcraft.feedback.guidelines import Guidelines
from lmcraft.feedback.judgement import BOTH_BAD, TIE, Answer, Item, Judgement, Wish
from lmcraft.feedback.store import Project, Store

Asked = Callable[..., Item]


def written(path: Path, rows: Iterable[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def rated(light: Store, project: Project) -> Project:
    """Five items, judged by a person and a program, with an undo, a skip and a flag."""
    ann, robot = light.rater("ann"), light.rater("robot", simulated=True, settings={"rule": "length"})
    items = project.open_items(ann)
    project.rate(
        ann, items[0], Judgement({0: {"safety": 1}}, 0, comment="fine", shown=(1, 0), seconds=2), key="1"
    )
    project.rate(ann, items[1], Judgement(choice=0), key="2")
    project.undo(ann, key="3")
    project.rate(ann, items[1], Judgement(choice=1, shown=(0, 1)), key="4")
    project.rate(ann, items[2], Judgement(choice=TIE), key="5")
    project.rate(ann, items[3], Judgement(choice=BOTH_BAD), key="6")
    project.rate(ann, items[4], Judgement(comment="?"), key="7", action="flag")
    project.rate_many(robot, [Wish(item, Judgement(choice=0), f"r{item.key}") for item in items])
    return project


@pytest.mark.parametrize("history", [True, False])
def test_ratings_move_to_another_store_and_back(rated: Project, tmp_path: Path, history: bool) -> None:
    """If this failed, an export would not be a backup: something would be missing, changed or doubled."""
    state = rated.snapshot(history)
    file = written(tmp_path / "ratings.jsonl", export.ratings(state))
    with Store(str(tmp_path / "other.db")) as other:
        copy = other.create("helpful", rated.guidelines()[1])
        counts = reading.take(other, copy, reading.ratings(file), {"file": file.name})
        assert counts == {
            "items_new": 5,
            "ratings_new": len(state.ratings),
            "ratings_present": 0,
            "raters": 2,
        }
        again = reading.take(other, copy, reading.ratings(file), {"file": file.name})
        assert (again["ratings_new"], again["items_new"]) == (0, 0)
        back = copy.snapshot(history)
        rows = [list(export.ratings(one)) for one in (state, back)]
        for row in [*rows[0], *rows[1]] if not history else []:
            row.pop("revision"), row.pop("supersedes")  # what was superseded is not in the file
        key = "key"
        assert sorted(rows[0], key=lambda row: row[key]) == sorted(rows[1], key=lambda row: row[key])
        assert back.simulated == ["robot"]


def test_votes_are_read_as_those_of_an_arena(rated: Project, tmp_path: Path) -> None:
    """If this failed, a ranking of models from our votes would give wins to the losers."""
    state = rated.snapshot()
    rows = list(export.votes(state, "people"))
    file = written(tmp_path / "votes.jsonl", rows)
    found = load(file).require().records
    assert all(isinstance(vote, Vote) and vote.judge == "ann" for vote in found)
    assert [(vote.model_a, vote.winner) for vote in found] == [
        ("model-b", "model_b"), ("model-a", "model_b"), ("model-a", "tie"), ("model-a", "tie (bothbad)"),
    ]  # fmt: skip
    assert found[0].conversation_a[-1].content.endswith("no") and not any(row["simulated"] for row in rows)
    assert sum(row["simulated"] for row in export.votes(state)) == 5
    with Store(str(tmp_path / "other.db")) as other:
        copy = other.create("p", Guidelines())
        reading.take(other, copy, reading.ratings(file), {})
        again = list(export.votes(copy.snapshot()))
        columns = ("model_a", "model_b", "winner", "conversation_a", "conversation_b", "judge")
        assert [[row[c] for c in columns] for row in again] == [[row[c] for c in columns] for row in rows]


def test_prompts_come_once(light: Store, asked: Asked, tmp_path: Path) -> None:
    """If this failed, a prompt with many answers would be trained on many times."""
    project = light.create("p", Guidelines())
    project.add([asked("1", "a", "b"), asked("1", "c", "d"), asked("2")], {})
    file = written(tmp_path / "prompts.jsonl", export.prompts(project.snapshot()))
    assert [record.prompt[0].content for record in load(file, "prompt").require().records] == ["1", "2"]


def test_items_are_read_from_several_shapes(tmp_path: Path) -> None:
    """If this failed, answers that somebody has would have to be rewritten by hand before they can be rated."""
    said = [{"role": "user", "content": "q"}]
    rows = {
        "own": {"id": 7, "prompt": "q", "answers": ["a", {"text": "b", "model": "m"}]},
        "messages": {"prompt": said, "answers": ["a", "b"]},
        "pair": {"prompt": "q", "chosen": "a", "rejected": "b"},
        "completion": {"prompt": "q", "completion": "a"},
        "vote": {"model_a": "m", "model_b": "n", "winner": "tie",
                 "conversation_a": [*said, {"role": "assistant", "content": "a"}],
                 "conversation_b": [*said, {"role": "assistant", "content": "b"}]},
    }  # fmt: skip
    found = {name: reading.items(written(tmp_path / f"{name}.jsonl", [row]))[0] for name, row in rows.items()}
    assert all(item.prompt == (Message("user", "q"),) for item in found.values())
    assert found["own"].answers == (Answer("a"), Answer("b", "m")) and found["own"].key == "7"
    assert [len(item.answers) for item in found.values()] == [2, 2, 2, 1, 2]
    assert [answer.model for answer in found["vote"].answers] == ["m", "n"]


def test_preferences_of_somebody_become_their_ratings(light: Store, tmp_path: Path) -> None:
    """If this failed, preferences that were collected elsewhere could not be gone on with."""
    file = written(
        tmp_path / "p.jsonl", [{"prompt": f"{i}", "chosen": "a", "rejected": "b"} for i in range(3)] * 2
    )
    project = light.create("p", Guidelines())
    with pytest.raises(UserError, match="cannot be used") as told:
        reading.ratings(file)
    assert "--rater" in told.value.why
    counts = reading.take(light, project, reading.ratings(file, "crowd", simulated=True), {})
    assert counts == {"items_new": 3, "ratings_new": 3, "ratings_present": 3, "raters": 1}
    assert project.snapshot().simulated == ["crowd"]
    assert {rating.judgement.choice for rating in project.snapshot().ratings} == {0}


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ({"prompt": "q", "answers": []}, "must be a list"),
        ({"prompt": "q", "answers": [3]}, "an answer is a text"),
        ({"prompt": "q", "answers": [{"text": "a", "model": 3}]}, "model must be a text"),
        ({"answers": ["a"]}, "'prompt' is missing"),
        ({"prompt": "q", "answers": ["a"], "id": [1]}, "id must be"),
        ({"text": "only text"}, "no answers"),
        ({"prompt": "q", "chosen": "a", "rejected": [
            {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"},
            {"role": "assistant", "content": "d"}]}, "one message of the assistant"),
    ],
)  # fmt: skip
def test_rows_that_are_no_items_are_told_with_their_line(
    tmp_path: Path, row: dict[str, Any], what: str
) -> None:
    """If this failed, a bad row would be left out in silence, or end in a traceback."""
    file = written(tmp_path / "items.jsonl", [row])
    with pytest.raises(UserError, match="cannot be used") as told:
        reading.items(file)
    assert what in told.value.why and "items.jsonl:1" in told.value.why


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"judgement": {"choise": 1}}, "no choise"),
        ({"judgement": 3}, "judgement an object"),
        ({"action": "delete"}, "action must be"),
        ({"simulated": "no"}, "true or false"),
        ({"key": 3}, "must be texts"),
    ],
)
def test_damaged_ratings_are_told_with_their_line(
    rated: Project, tmp_path: Path, change: dict[str, Any], what: str
) -> None:
    """If this failed, a file that was edited by hand could bring in what nobody said."""
    rows = list(export.ratings(rated.snapshot()))
    file = written(tmp_path / "r.jsonl", [rows[0], {**rows[1], **change}])
    with pytest.raises(UserError, match="1 of") as told:
        reading.ratings(file)
    assert what in told.value.why and "r.jsonl:2" in told.value.why


def test_one_key_for_two_ratings_is_told(light: Store, rated: Project, tmp_path: Path) -> None:
    """If this failed, one of two ratings that a bad tool gave the same key would vanish without a word."""
    row = next(export.ratings(rated.snapshot()))
    other = {**row, "judgement": {"choice": TIE}}
    with pytest.raises(UserError, match="same key"):
        reading.take(light, rated, reading.ratings(written(tmp_path / "r.jsonl", [row, row, other])), {})
