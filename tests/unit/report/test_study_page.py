"""The page of a study says what was found, makes no request, and its figures can be drawn again from its numbers."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from pydantic import ValidationError

from lmcraft.core.errors import UserError
from lmcraft.report import panels, study
from lmcraft.report.finding import Figure, Finding, Line, Panel, Study, Table


@pytest.fixture
def made() -> Study:
    places: list[float] = [1, 10, 100]
    curve = Line(label="Elman <RNN>", x=places, y=[1.0, 1e-9, 1e-20])
    spread = Line(
        label="LSTM", x=places, y=[1.0, 0.5, None], low=[0.9, 0.4, 0.1], high=[1.0, 0.6, 0.2], kind="dashed"
    )
    points = curve.model_copy(update={"kind": "points"})
    bars = [
        Line(label=label, x=["before", "after"], y=[0.1, 0.9], kind="bars") for label in ("format", "facts")
    ]
    shares = {"y": "answers", "percent": True, "levels": {"chance": 0.25}, "y_range": (0, 1)}
    figure = Figure(
        name="made-up",
        caption="What fades & what stays.",
        panels=[
            Panel(title="Gradient", x="distance, tokens", y="gradient", y_scale="log", lines=[curve, spread]),
            Panel(title="Shares", x="", lines=bars, **shares),
            Panel(title="Loss", x="parameters", y="loss", x_scale="log", lines=[points]),
        ],
    )
    finding = Finding(
        claim="The network names 24 % <of> the symbols.",
        numbers={"recall": 0.24, "tiny": 2.5e-24, "unknown": None},
        figures=[figure],
        tables=[Table(title="All", headings=["model", "recall"], rows=[["Elman", 0.24], ["LSTM", None]])],
        method=["It was measured."],
        limits=["It shows little."],
    )
    return Study(
        name="made-up",
        question="Does it fade?",
        finding=finding,
        config={"seed": 0, "model": {"width": 8}},
        command="lmcraft study made-up",
        seconds=61.0,
        machine="2 CPU cores",
        packages={"torch": "2"},
        created="2026-01-01",
    )


def test_the_page_tells_the_claim_first_and_everything_else_after(tmp_path: Path, made: Study) -> None:
    """If this failed, a reader would not learn what was found, how, or how to check it."""
    page = study.write(tmp_path, made).read_text(encoding="utf-8")
    order = ["Does it fade?", "names 24 % &lt;of&gt;", "<svg", "What fades &amp; what stays.", "It was measured.",
             "It shows little.", "lmcraft study made-up", "model.width"]  # fmt: skip
    places = [page.index(part) for part in order]
    assert places == sorted(places)
    assert "Elman <RNN>" not in page and "2.50\u00a0×\u00a010⁻²⁴" in page
    assert not re.search(r'(src|href)="(?!data:|#)', page) and "<script" not in page and "http:" not in page


def test_everything_is_in_the_json(tmp_path: Path, made: Study) -> None:
    """If this failed, figures could not be drawn again from study.json, or numbers would differ from the page's."""
    study.write(tmp_path, made)
    assert study.read(tmp_path) == made
    (tmp_path / "study.json").write_text('{"name": "x"}')
    with pytest.raises(UserError, match="not the result of a study"):
        study.read(tmp_path)


def test_panels_take_the_colours_of_the_page(made: Study) -> None:
    """If this failed, dark mode would show dark curves on a dark page, or two panels would share their ids."""
    drawn = [part.svg for part in study.drawings(made.finding.figures[0])]
    for svg in drawn:
        assert ElementTree.fromstring(svg).get("role") == "img"
        assert set(re.findall(r"#[0-9a-f]{6}", svg)) <= {"#ffffff"}
    assert (
        "var(--first)" in drawn[0] and "var(--second)" in drawn[0] and re.search("10⁻[⁰¹²³⁴⁵⁶⁷⁸⁹]", drawn[0])
    )
    assert "chance" in drawn[1] and "100 %" in drawn[1] and "before" in drawn[1]
    ids = [i for svg in drawn for i in re.findall(r'\bid="([^"]+)"', svg)]
    assert len(ids) == len(set(ids)) > 10


def test_the_picture_is_small_and_the_same_every_time(made: Study) -> None:
    """If this failed, figures could not be kept in the repository."""
    first = panels.png(made.finding.figures[0])
    assert (
        first.startswith(b"\x89PNG") and len(first) < 150_000 and panels.png(made.finding.figures[0]) == first
    )


def test_the_palette_is_the_style_sheets() -> None:
    """If this failed, a curve would have one colour on the page and another in the picture."""
    assert len({panels.palette()[name] for name in panels.TONES}) == 5


@pytest.mark.parametrize("wrong", [{"y": [1.0]}, {"low": [0.0, 0.0]}, {"y": [float("nan"), 1.0]}])
def test_curves_that_cannot_be_drawn_are_refused(wrong: dict) -> None:
    """If this failed, a study would end in a traceback of matplotlib after minutes of training."""
    with pytest.raises(ValidationError):
        Line(**{"label": "a", "x": [1, 2], "y": [1.0, 2.0], **wrong})
