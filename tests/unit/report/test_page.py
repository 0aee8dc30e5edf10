"""The page of a run: complete, offline, inert, the same every time, and there whatever the run looks like."""

from __future__ import annotations

import pytest

from lmcraft.report import page

HOSTILE = (
    "</p></pre></style><script>alert(1)</script><img src=http://evil.example/x onerror='x'>"
    "\u202e\x00\"'&amp;{{7*7}}"
)


def test_the_page_has_every_part(make_run, seen) -> None:
    """If this failed, something that a run knows would not be told."""
    run = make_run("tuned", "sft", parents=[make_run("base").path])
    metrics = {"bits_per_byte": 1.2345, "tokens": 1000}
    run.write_json(
        "evals/perplexity.json", {"metrics": metrics, "settings": {"window": 64}, "files": ["held.jsonl"]}
    )
    file = page.write(run)
    assert file == run.path / "report.html"
    found = seen(file)
    assert found.wrong == []
    for part in (
        "Fine-tuning", "done", "Starting from base", f"lmcraft chat {run.path}", "Hi there!", "stopped by itself",
        "before training, the base", "2 of 6 tokens shown are trained, 33.3 %", "Duplicates left out", "1.234",
        "held.jsonl", "Peak memory", "1.5 GB", "1,234,567", "Where it comes from", "lmcraft train sft", "kind: sft",
    ):  # fmt: skip
        assert part in found.text, part
    assert "../base/report.html" in found.attributes("href")
    assert found.count("svg") == 5


def test_nothing_is_requested(make_run, seen) -> None:
    """If this failed, opening a report would tell somebody, or show less without a network."""
    file = page.write(
        make_run(samples=[{"step": 0, "prompt": HOSTILE, "text": HOSTILE, "finish_reason": HOSTILE}])
    )
    found = seen(file)
    for name in ("src", "href", "srcset", "data", "action", "poster", "xlink:href"):
        for address in found.attributes(name):
            assert address in ("data:,",) or address.startswith("#"), f"{name}={address}"
    style = file.read_text().split("<style>")[1].split("</style>")[0]
    assert "url(" not in style and "@import" not in style
    assert {tag for tag, _ in found.elements} & {
        "script",
        "img",
        "iframe",
        "object",
        "embed",
        "video",
        "form",
    } == set()
    policy = next(a["content"] for tag, a in found.elements if tag == "meta" and a.get("http-equiv"))
    assert policy.startswith("default-src 'none'")


def test_hostile_text_is_inert_everywhere(make_run, seen) -> None:
    """If this failed, text in a data set could run code in the browser of whoever reads the report."""
    data = {
        "files": {HOSTILE: {"shape": HOSTILE, "records": HOSTILE, "problems": 0}}, HOSTILE: HOSTILE, "trained on": 1,
        "shard": HOSTILE, "preview": [{"where": HOSTILE, "tokens": [[HOSTILE, True], [HOSTILE, True]]}],
    }  # fmt: skip
    samples = [
        {"step": step, "prompt": HOSTILE, "text": HOSTILE, "finish_reason": HOSTILE} for step in (0, 1)
    ]
    config = f"stage:\n  kind: '{HOSTILE.replace(chr(39), chr(39) * 2).replace(chr(0), '')}'\n".replace(
        "\u202e", ""
    )
    run = make_run("<b>run", data=data, samples=samples, command=["lmcraft", HOSTILE], config=config)
    run.write_json(
        "evals/x.json", {"metrics": {HOSTILE: HOSTILE}, "settings": {HOSTILE: HOSTILE}, "files": [HOSTILE]}
    )
    run.write_text("evals/broken.json", "{" + HOSTILE)
    found = seen(page.write(run))
    assert found.wrong == [], "hostile text changed the structure of the page"
    assert found.count("script") == found.count("img") == 0 and found.count("b") == 1, (
        "one <b> is the page's own"
    )
    assert not any(name.startswith("on") for _, attributes in found.elements for name in attributes)
    assert "\u202e" not in found.text and "\x00" not in found.text and "{{7*7}}" in found.text


def test_two_writes_are_equal(make_run) -> None:
    """If this failed, nobody could tell whether a page has changed."""
    run = make_run()
    first = page.write(run).read_bytes()
    assert page.write(run).read_bytes() == first


@pytest.mark.parametrize(
    "parts",
    [
        {"steps": 1},
        {"steps": 2},
        {"metrics": []},
        {
            "metrics": [
                {"step": 1, "loss": None, "grad_norm": None, "tokens_per_second": None, "eval_loss": None}
            ]
        },
        {"metrics": [{"step": 1, "loss": 1e300}, {"step": 2, "loss": -1e300}]},
        {"metrics": [{"loss": 1.0}, {"step": "x", "loss": 2.0}]},
        {"samples": []},
        {"samples": [{"step": 0, "prompt": None, "text": None}]},
        {"data": None},
        {"data": {"preview": [], "files": []}},
        {"config": "stage: pretrain\n"},
        {"config": "- a list\n"},
        {"config": ""},
        {"status": "interrupted", "steps": 0, "metrics": []},
    ],
)
def test_a_minimal_run_has_a_page(make_run, seen, parts: dict) -> None:
    """If this failed, a training of hours would end with a traceback because of its report."""
    found = seen(page.write(make_run(**parts)))
    assert found.wrong == [] and "Where it comes from" in found.text


def test_a_damaged_part_is_named(make_run, seen) -> None:
    """If this failed, a page would hide that it could not read something."""
    run = make_run()
    (run.path / "data.json").write_text("{")
    found = seen(page.write(run))
    assert "Could not be read" in found.text and "data.json: not valid JSON" in found.text


def test_half_a_character_can_be_written(make_run, seen) -> None:
    """If this failed, a lone surrogate in a sample, which JSON allows, would cost the page."""
    run = make_run(samples=[])
    (run.path / "samples.jsonl").write_text('{"step": 0, "prompt": "a\\ud800", "text": "\\udfff"}\n')
    assert "U+D800" in seen(page.write(run)).text


def test_tables_and_pictures_can_be_read_aloud(make_run, seen) -> None:
    """If this failed, a reader who does not see would meet nameless columns and pictures."""
    found = seen(page.write(make_run()))
    for tag, attributes in found.elements:
        assert tag != "th" or attributes.get("scope"), "a heading that heads nothing"
        assert attributes.get("role") != "img" or attributes.get("aria-label")
    assert found.elements[0] == ("html", {"lang": "en"}) and found.count("h1") == 1
    ids = found.attributes("id")
    assert len(ids) == len(set(ids))
