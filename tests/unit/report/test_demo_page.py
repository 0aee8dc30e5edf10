"""The page of a demo: stages compared honestly, base and chat model side by side."""

from __future__ import annotations

import re

import pytest

from lmcraft.report import page

STAGES = {
    "pretrain": {"seconds": 312.0, "tokens": 3.2e6, "parameters": 3.4e6, "loss": 4.1, "bits_per_byte": 1.7,
                 "share_stopped": 0.0, "peak_memory_bytes": 1.3e9},
    "sft": {"seconds": 131.0, "loss": 3.6, "bits_per_byte": 1.6, "share_stopped": 0.9667},
}  # fmt: skip
CHATS = [{
    "prompt": "Hello <b>?", "base": {"text": "and so on and so", "finish_reason": "length"},
    "chat": {"text": "Hi! How are you?", "finish_reason": "stop"},
}]  # fmt: skip


@pytest.fixture
def stages(make_run) -> list:
    base = make_run("demo/pretrain")
    return [base, make_run("demo/sft", "sft", parents=[base.path])]


def test_the_page_tells_the_whole_story(stages: list, tmp_path, seen) -> None:
    """If this failed, a part of the demo would be missing from its report."""
    summary = {"stages": STAGES, "chats": CHATS, "seconds": 500.0, "next": "lmcraft chat runs/demo/sft"}
    found = seen(page.write_demo(tmp_path / "demo", summary, stages))
    assert found.wrong == []
    for part in (
        "Pre-training", "Fine-tuning", "5\u00a0min 12\u00a0s", "3.2 million", "1.700", "0 %", "96.7 %", "1.3 GB",
        "base model, before fine-tuning", "and so on and so", "Hi! How are you?", "Hello <b>?", "cut off at the limit",
        "stopped by itself", "What fine-tuning trains", "Data of pretrain", "Data of sft", "Duplicates left out",
        "lmcraft chat runs/demo/sft", "8\u00a0min 20\u00a0s",
    ):  # fmt: skip
        assert part in found.text, part
    assert {"pretrain/report.html", "sft/report.html"} <= set(found.attributes("href"))
    ids = found.attributes("id")
    assert len(ids) == len(set(ids)) and found.count("svg") == 4


def test_what_the_summary_leaves_out_comes_from_the_runs(stages: list, tmp_path, seen) -> None:
    """If this failed, the table would have holes though the runs know the numbers."""
    found = seen(page.write_demo(tmp_path / "demo", {"stages": STAGES}, stages))
    assert "1.23 million" in found.text and "1.5 GB" in found.text


def test_bits_of_different_bytes_are_not_drawn_as_if_they_could_be_compared(
    stages: list, tmp_path, seen
) -> None:
    """If this failed, the page would show that tuning made the model better or worse at something it did not do."""
    drawn = "less is better"
    same = {name: {**stage, "bits_per_byte_of": "answers"} for name, stage in STAGES.items()}
    assert drawn in seen(page.write_demo(tmp_path / "demo", {"stages": same}, stages)).text
    other = {name: {**stage, "bits_per_byte_of": name} for name, stage in STAGES.items()}
    text = seen(page.write_demo(tmp_path / "demo", {"stages": other}, stages)).text
    assert drawn not in text and "different bytes" in text


@pytest.mark.parametrize(
    "summary",
    [
        {}, {"stages": None, "chats": None}, {"stages": {"sft": None}},
        {"chats": [None, {"prompt": None}, {"base": 3}]},
        {"stages": {"pretrain": {"seconds": None, "share_stopped": "x"}}}, {"next": 7, "seconds": "long"},
    ],
)  # fmt: skip
def test_a_summary_with_holes_has_a_page(stages: list, tmp_path, seen, summary: dict) -> None:
    """If this failed, a demo that measured less would end with a traceback."""
    found = seen(page.write_demo(tmp_path / "demo", summary, stages))
    assert found.wrong == [] and "lmcraft chat" in found.text
    assert seen(page.write_demo(tmp_path / "demo", summary, [])).wrong == []


def test_bars_are_in_proportion(stages: list, tmp_path) -> None:
    """If this failed, the figures would contradict their numbers."""
    text = page.write_demo(tmp_path / "demo", {"stages": STAGES}, stages).read_text()
    widths = [float(width) for width in re.findall(r'<i style="width: ([\d.]+)%"', text)]
    assert widths == [
        100.0,
        pytest.approx(100 * 131 / 312, abs=0.01),
        100.0,
        pytest.approx(94.12, abs=0.01),
        0.0,
        96.67,
    ]


def test_two_writes_are_equal(stages: list, tmp_path) -> None:
    """If this failed, nobody could tell whether a page has changed."""
    first = page.write_demo(tmp_path / "demo", {"stages": STAGES, "chats": CHATS}, stages).read_bytes()
    assert (
        page.write_demo(tmp_path / "demo", {"stages": STAGES, "chats": CHATS}, stages).read_bytes() == first
    )


def test_a_policy_is_told_by_its_scores_and_not_by_its_loss(make_run, stages: list, tmp_path, seen) -> None:
    """If this failed, the page would give PPO a perplexity, show it twice, or hide whether votes changed anything."""
    rows = [
        {
            "step": step,
            "loss": 0.01,
            "targets": 100,
            "epoch": step / 10,
            **({"score": step / 8, "kl": step / 2} if step % 4 == 1 else {}),
        }
        for step in range(1, 9)
    ]
    policy = make_run("demo/feedback/round-1/policy", "ppo", 8, parents=[stages[1].path], metrics=rows)
    summary = {
        "stages": STAGES | {"ppo": {"upbeat": 0.5}},
        "upbeat": {"difference": 0.137, "p": 0.001},
        "chats": [CHATS[0] | {"ppo": {"text": "Great!", "finish_reason": "stop"}}],
    }
    place = page.write_demo(tmp_path / "demo", summary, [*stages, policy])
    found = seen(place)
    assert found.wrong == []
    for part in (
        "Reinforcement learning",
        "went from 0.125 to 0.625",
        "2.5 nats",
        "+0.137",
        "Great!",
        "learning from votes",
    ):
        assert part in found.text, part
    assert "perplexity 1)" not in found.text
    assert "feedback/round-1/policy/report.html" in found.attributes("href")
    heads = re.search(r"<thead>.*?measured.*?</thead>", place.read_text(), re.DOTALL)
    assert heads and re.findall(r">(\w+)</(?:a|th)>", heads.group()) == ["measured", "pretrain", "sft", "ppo"]
