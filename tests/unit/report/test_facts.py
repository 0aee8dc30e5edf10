"""Whatever is missing or damaged in a run, the rest of it is read."""

from __future__ import annotations

import pytest

from lmcraft.report import facts


def test_a_whole_run_is_read_without_complaint(make_run) -> None:
    """If this failed, every page would begin with false alarms."""
    found = facts.read(make_run(stage="sft"))
    assert found.problems == [] and (found.stage, found.status, found.step) == ("sft", "done", 60)
    assert found.files == ["talk.jsonl"] and found.setting("train", "precision") == "fp32"
    assert found.tokens_trained == 60_000 and found.tokens_read == 12_000


@pytest.mark.parametrize(
    "name", ["state.json", "data.json", "metrics.jsonl", "samples.jsonl", "config.yaml", "origin.json"]
)
@pytest.mark.parametrize("content", ["{", "[1]", "null", "\x00", '{"a": 1}\nnot json\n{}\n', "\udcff"])
def test_a_damaged_file_costs_only_itself(make_run, name: str, content: str) -> None:
    """If this failed, one bad byte would take away the whole page."""
    run = make_run()
    (run.path / name).write_bytes(content.encode("utf-8", "surrogateescape"))
    found = facts.read(run)
    intact = {
        "state.json": found.state,
        "data.json": found.data,
        "metrics.jsonl": found.metrics,
        "samples.jsonl": found.samples,
    }
    assert all(value for other, value in intact.items() if other != name)
    if content == "{" and name.endswith(".json"):
        assert any(problem.startswith(name) for problem in found.problems)


def test_values_that_are_not_finite_are_left_out(make_run) -> None:
    """If this failed, a NaN in the log would be counted as a number."""
    found = facts.read(make_run(metrics=[{"step": 1, "loss": None}, {"step": 2, "loss": 3.0}, {"step": 3}]))
    assert found.column("loss") == [3.0]


def test_ancestors_are_followed_to_the_first(make_run) -> None:
    """If this failed, the lineage of a chat model would end at its parent."""
    first = make_run("first")
    second = make_run("second", "sft", parents=[first.path])
    third = make_run("third", "sft", parents=[second.path])
    found = facts.read(third).ancestors
    assert [(a.name, a.stage, a.depth) for a in found] == [("second", "sft", 0), ("first", "pretrain", 1)]
    assert found[1].link == "../first/report.html" and len(found[0].digest) == 64


def test_ancestors_that_are_gone_or_go_in_circles_do_not_matter(make_run) -> None:
    """If this failed, deleting a base model, or a forged origin, would hang or break the page of its children."""
    first = make_run("first")
    second = make_run("second", parents=[first.path])
    first.write_json("origin.json", {"parents": [{"path": "../second", "digest": "0"}]})
    assert [a.name for a in facts.read(second).ancestors] == ["first"]
    (first.path / "origin.json").unlink()
    assert [(a.name, a.link) for a in facts.read(second).ancestors] == [("first", None)]
