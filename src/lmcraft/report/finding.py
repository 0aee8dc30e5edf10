"""What a study found, as plain data: the claim, its numbers, tables, and figures as curves and not as pictures.

1. All of it goes to JSON and back without loss. So a figure can be drawn again, in another size or another colour,
   without measuring again.
2. A claim is one sentence that holds the numbers it rests on; studies write it from `numbers`.

Proved by tests/unit/report/test_study_page.py.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from ..core.config import Strict


class Line(Strict):
    """One curve, cloud of points, or group of bars of a panel."""

    label: str
    x: list[float] | list[str] = Field(description="places; words for bars")
    y: list[float | None] = Field(description="None where nothing was measured")
    low: list[float] | None = Field(None, description="lower end of the spread of each value")
    high: list[float] | None = None
    kind: Literal["line", "dashed", "points", "bars"] = "line"
    marked: bool = Field(True, description="a marker at each value, unless there are many")
    tone: int | None = Field(None, ge=0, lt=5, description="which colour; default: its place in the panel")

    @model_validator(mode="after")
    def _as_many(self) -> Line:
        lengths = {len(part) for part in (self.x, self.y, self.low, self.high) if part is not None}
        if len(lengths) > 1 or (self.low is None) != (self.high is None):
            raise ValueError(
                f"{self.label}: x, y, low and high must be of one length, and low and high go together"
            )
        return self


class Panel(Strict):
    """One pair of axes; a figure is a row of them."""

    title: str
    x: str = Field(description="what the horizontal axis shows, with its unit")
    y: str
    lines: list[Line]
    x_scale: Literal["linear", "log", "log2"] = "linear"
    y_scale: Literal["linear", "log"] = "linear"
    y_range: tuple[float, float] | None = None
    percent: bool = Field(False, description="y is a share, written as percent")
    levels: dict[str, float] = Field({}, description="values drawn as dotted lines across, such as chance")


class Grid(Strict):
    """A table of shares drawn as squares, such as the attention of every target token to every source token."""

    title: str
    x: str = Field(description="what the columns are")
    y: str = Field(description="what the rows are")
    columns: list[str]
    rows: list[str]
    values: list[list[float]] = Field(description="between 0 and 1, one list a row")
    label: str = Field(description="what the values are")
    marked: list[tuple[int, int]] = Field([], description="row and column of the squares that get a frame")
    mark: str = Field("", description="what a frame means")

    @model_validator(mode="after")
    def _fits(self) -> Grid:
        if [len(self.columns)] * len(self.rows) != [len(row) for row in self.values]:
            raise ValueError(f"{self.title}: there must be a value for each row and column")
        return self


class Figure(Strict):
    """Panels side by side under one caption; `name` becomes the file's name."""

    name: str = Field(pattern=r"^[a-z0-9-]+$")
    caption: str
    panels: list[Panel | Grid] = Field(min_length=1, max_length=4)


class Table(Strict):
    """Rows of numbers and words under headings."""

    title: str
    headings: list[str]
    rows: list[list[float | int | str | None]]
    note: str = ""
    prose: bool = Field(False, description="cells are sentences, not numbers")


class Finding(Strict):
    """The answer of a study to its question."""

    claim: str = Field(description="one sentence with the numbers that it rests on")
    numbers: dict[str, float | int | str | None]
    figures: list[Figure] = Field(min_length=1)
    tables: list[Table] = []
    method: list[str] = Field([], description="how it was measured, a sentence each")
    limits: list[str] = Field([], description="what the numbers do not show, a sentence each")


class Study(Strict):
    """A finding with everything that is needed to judge it and to measure it again; the content of study.json."""

    name: str
    question: str
    finding: Finding
    config: dict
    command: str
    seconds: float = Field(description="from beginning to end")
    cpu_seconds: float | None = Field(
        None, description="of all processors together; a busy machine does not change it"
    )
    machine: str
    packages: dict[str, str]
    created: str
