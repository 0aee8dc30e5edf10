"""Writes the page of a study: the claim on top, then figure, tables, how it was measured and how to measure it again.

Proved by tests/unit/report/test_study_page.py and tests/cli/test_study.py.
"""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from markupsafe import Markup

from ..core.device import threads
from ..core.disk import read_json, write_bytes, write_json, write_text
from ..core.errors import UserError
from . import words
from .finding import Figure, Study
from .page import NAME, environment
from .panels import legend, png, svg

DATA = "study.json"


@dataclass(frozen=True)
class Drawing:
    """One panel for the page: `legend` holds tone, whether it is dashed, and label of each line."""

    title: str
    legend: list[tuple[str, bool, str]]
    svg: Markup


def write(directory: Path, study: Study) -> Path:
    """Writes the figures, report.html and, as the last, study.json: its presence means that the study is finished.

    Raises:
        UserError: the disk is full or the directory cannot be written.
    """
    for figure in study.finding.figures:
        write_bytes(directory / f"{figure.name}.png", png(figure))
    page = environment().get_template("study.jinja").render(
        study=study,
        finding=study.finding,
        figures=[(figure, drawings(figure)) for figure in study.finding.figures],
        settings=settings(study.config),
        cell=cell,
        time=took(study),
    )  # fmt: skip
    written = write_text(directory / NAME, page)
    write_json(directory / DATA, study.model_dump(mode="json"))
    return written


def circumstances(packages: Sequence[str]) -> dict[str, Any]:
    """Where, when and with which versions something is measured: three fields of a Study."""
    cores = threads()
    return {
        "machine": f"{cores} CPU core{'s' if cores > 1 else ''} ({platform.machine()})",
        "packages": {name: metadata.version(name) for name in packages}
        | {"python": platform.python_version()},
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def read(directory: Path) -> Study:
    """The study that is in a directory.

    Raises:
        UserError: study.json is not what `write` writes.
    """
    try:
        return Study.model_validate(read_json(directory / DATA))
    except ValueError as error:
        raise UserError(
            "this is not the result of a study", where=str(directory / DATA), why=str(error)
        ) from error


def took(study: Study) -> str:
    """How long a study took, and how much of that was computing."""
    computing = "" if study.cpu_seconds is None else f" ({words.duration(study.cpu_seconds)} of CPU time)"
    return words.duration(study.seconds) + computing


def drawings(figure: Figure) -> list[Drawing]:
    """The panels of a figure for the page."""
    odd = len(figure.panels) % 2
    return [
        Drawing(
            panel.title,
            legend(panel),
            svg(panel, f"{figure.name}-{number}", wide=bool(odd) and number == len(figure.panels) - 1),
        )
        for number, panel in enumerate(figure.panels)
    ]


def settings(config: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Every setting as its dotted name and value."""
    found = []
    for name, value in config.items():
        if isinstance(value, dict):
            found += settings(value, f"{prefix}{name}.")
        else:
            shown = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
            found.append((prefix + name, shown))
    return found


def cell(value: Any) -> str:
    """A value of a table: a word as it is, a number with the digits that matter."""
    if isinstance(value, str):
        return value
    return (
        words.scientific(value, 3) if isinstance(value, float) and abs(value) < 1e-3 else words.digits(value)
    )
