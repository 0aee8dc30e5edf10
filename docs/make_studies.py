"""Writes what studies measured into docs/studies: pages, figures and a list, from the study.json of each.

    lmcraft study NAME && cp runs/study-NAME/study.json docs/studies/NAME.json && make docs

Only what stands between the two marks of a page is written; what people wrote below stays. `--check` only compares, so
that no number of a page can differ from what was measured.

Proved by tests/unit/report/test_docs_studies.py.
"""

from __future__ import annotations

import sys
from pathlib import Path

from lmcraft.report.finding import Study, Table
from lmcraft.report.panels import png
from lmcraft.report.study import cell, settings, took

ROOT = Path(__file__).resolve().parent
PAGES, IMAGES, LIST = ROOT / "studies", ROOT / "images" / "studies", ROOT / "studies.md"
BEGIN, END = "<!-- measured: written by docs/make_studies.py -->", "<!-- end of what was measured -->"
HEAD = """# Studies

Small experiments that answer a question about language models with a number and a figure, in minutes on two CPU cores.
`lmcraft study` lists them, `lmcraft study NAME` performs one and writes its page. Written by `make docs`.
"""


def studies() -> list[Study]:
    """What was measured, by name."""
    files = sorted(PAGES.glob("*.json"))
    return [Study.model_validate_json(file.read_text(encoding="utf-8")) for file in files]


def measured(study: Study) -> str:
    """The generated part of a page."""
    finding = study.finding
    lines = [BEGIN, f"# {study.question}", "", f"**{finding.claim}**", ""]
    for figure in finding.figures:
        lines += [f"![{figure.caption}](../images/studies/{figure.name}.png)", "", figure.caption, ""]
    for table in finding.tables:
        lines += [f"## {table.title}", "", *rows(table), "", *([table.note, ""] if table.note else [])]
    lines += ["## How it was measured", "", *(f"- {sentence}" for sentence in finding.method), ""]
    if finding.limits:
        lines += ["What it does not show:", "", *(f"- {sentence}" for sentence in finding.limits), ""]
    shown = ", ".join(f"`{name}={value}`" for name, value in settings(study.config))
    versions = ", ".join(f"{name} {version}" for name, version in study.packages.items())
    lines += [
        "## Measure it again", "", "```", study.command, "```", "",
        f"It took {took(study)} on {study.machine}, with {versions}. Settings: {shown}.", "", END,
    ]  # fmt: skip
    return "\n".join(lines)


def rows(table: Table) -> list[str]:
    """A table in Markdown, numbers to the right."""
    marks = ["---", *["---:"] * (len(table.headings) - 1)]
    body = [[cell(value).replace("|", "\\|") for value in row] for row in table.rows]
    return [f"| {' | '.join(row)} |" for row in (table.headings, marks, *body)]


def page(study: Study) -> str:
    """The page with its generated part renewed."""
    file = PAGES / f"{study.name}.md"
    before = file.read_text(encoding="utf-8") if file.exists() else ""
    below = before.partition(END)[2] if END in before else "\n" + before
    return measured(study) + below


def overview(found: list[Study]) -> str:
    """The list of all studies."""
    lines = [HEAD]
    for study in found:
        lines += [f"## [{study.question}](studies/{study.name}.md)", "", study.finding.claim, ""]
    return "\n".join(lines)


def main() -> int:
    """Writes pages, figures and list, or with --check returns 1 if a page or the list is stale."""
    found = studies()
    pages = {PAGES / f"{study.name}.md": page(study) for study in found} | {LIST: overview(found)}
    if "--check" in sys.argv:
        stale = [
            file
            for file, text in pages.items()
            if not file.exists() or file.read_text(encoding="utf-8") != text
        ]
        for file in stale:
            print(f"{file.relative_to(ROOT.parent)} is stale; run: make docs", file=sys.stderr)
        return 1 if stale else 0
    IMAGES.mkdir(parents=True, exist_ok=True)
    for file, text in pages.items():
        file.write_text(text, encoding="utf-8")
    for study in found:
        for figure in study.finding.figures:
            (IMAGES / f"{figure.name}.png").write_bytes(png(figure))
    return 0


if __name__ == "__main__":
    sys.exit(main())
