"""The pages of studies in docs say what was measured, and nothing else."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

from lmcraft.report.finding import Figure, Finding, Line, Panel, Study, Table

DOCS = Path(__file__).resolve().parents[3] / "docs"
MADE = runpy.run_path(str(DOCS / "make_studies.py"))
STUDIES = MADE["studies"]()


def test_the_list_is_fresh() -> None:
    """If this failed, docs/studies.md would tell another claim than was measured: run `make docs`."""
    assert (DOCS / "studies.md").read_text(encoding="utf-8") == MADE["overview"](STUDIES)


@pytest.mark.parametrize("study", STUDIES, ids=lambda study: study.name)
def test_a_page_is_fresh_and_has_its_figures(study) -> None:
    """If this failed, a page would show numbers that were not measured, or a figure that is not there."""
    text = (DOCS / "studies" / f"{study.name}.md").read_text(encoding="utf-8")
    assert text == MADE["page"](study) and study.finding.claim in text
    images = re.findall(r"\]\(\.\./images/studies/([\w-]+\.png)\)", text)
    assert len(images) == len(study.finding.figures)
    assert all((DOCS / "images" / "studies" / image).stat().st_size < 150_000 for image in images)


def test_what_people_wrote_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If this failed, renewing the numbers would delete the explanation below them."""
    panel = Panel(title="a", x="x", y="y", lines=[Line(label="a", x=[1], y=[0.5])])
    finding = Finding(
        claim="It is 24 %.",
        numbers={"share": 0.24},
        figures=[Figure(name="made-up", caption="One point.", panels=[panel])],
        tables=[Table(title="All", headings=["model", "share"], rows=[["a|b", 0.24]])],
    )
    study = Study(
        name="made-up", question="Is it?", finding=finding, config={"seed": 0}, command="lmcraft study made-up",
        seconds=1.0, machine="2 CPU cores", packages={"torch": "2"}, created="2026-01-01",
    )  # fmt: skip
    page = MADE["page"]
    monkeypatch.setitem(page.__globals__, "PAGES", tmp_path)
    file = tmp_path / "made-up.md"
    file.write_text("Why it matters.\n")
    first = page(study)
    assert (
        first.endswith("\nWhy it matters.\n") and "**It is 24 %.**" in first and "| a\\|b | 0.24 |" in first
    )
    file.write_text(first.replace("It is 24 %.", "An older claim of 12 %."))
    assert page(study) == first
