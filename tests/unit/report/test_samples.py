"""Before and after are the same prompt at the first and the last step."""

from __future__ import annotations

from lmcraft.report import facts, samples


def row(step: int, prompt: str, text: str, reason: str | None = "stop") -> dict:
    return {"step": step, "prompt": prompt, "text": text, "finish_reason": reason}


def test_the_earliest_stands_beside_the_latest(make_run) -> None:
    """If this failed, the comparison would be of two moments in the middle, or of two prompts."""
    run = make_run(samples=[])
    for sample in (
        row(20, "a", "middle"),
        row(0, "a", "first"),
        row(0, "b", "only"),
        row(60, "a", "last", "length"),
    ):
        run.append_sample(sample)
    a, b = samples.before_after(facts.read(run))
    assert [(x.label, x.text, x.stopped) for x in a.answers] == [
        ("before training, random weights", "first", True),
        ("after 60 steps", "last", False),
    ]
    assert a.answers[1].ending == "cut off at the limit of 20 tokens"
    assert (b.prompt, [x.text for x in b.answers]) == ("b", ["only"])


def test_before_tuning_it_is_the_base_that_speaks(make_run) -> None:
    """If this failed, a reader would take the base model's answer for that of random weights."""
    run = make_run("tuned", "sft", parents=[make_run("base").path])
    assert samples.before_after(facts.read(run))[0].answers[0].label == "before training, the base"


def test_how_an_answer_ended_is_said_even_if_it_is_unknown() -> None:
    """If this failed, an answer without a reason would look as if it had stopped by itself."""
    assert samples.answer("x", row(0, "p", "t", None)).ending == "how it ended is not known"
    assert samples.answer("x", None).text == "" and not samples.answer("x", {"text": None}).stopped
