"""Figures are exact, the same every time, and leave colours and fonts to the page."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest

from lmcraft.report import facts, figures


def test_a_figure_is_one_inline_element(make_run) -> None:
    """If this failed, figures would be requests, or would not be read aloud."""
    for figure in figures.curves(facts.read(make_run())):
        for svg in filter(None, (figure.wide, figure.narrow)):
            root = ElementTree.fromstring(svg)
            assert root.tag == "svg" and root.get("role") == "img" and len(root.get("aria-label")) > 10
            assert "http" not in svg and "<style" not in svg and "<metadata" not in svg and "<!--" not in svg


def test_colours_and_fonts_are_those_of_the_page(make_run) -> None:
    """If this failed, dark mode would show black text on black."""
    figure = figures.loss(facts.read(make_run()))
    assert set(re.findall(r"#[0-9a-f]{6}", figure.wide)) <= {"#ffffff"}
    assert "var(--first)" in figure.wide and "var(--second)" in figure.wide and "DejaVu" not in figure.wide
    assert "nats per token" in figure.wide and "perplexity" in figure.wide and "trained tokens" in figure.wide


def test_the_same_run_gives_the_same_bytes_whatever_the_user_set(make_run) -> None:
    """If this failed, reports could not be compared, and a user's own matplotlib style would spoil them."""
    found = facts.read(make_run())
    first = figures.curves(found)
    with matplotlib.rc_context(
        {"font.size": 30, "svg.fonttype": "path", "axes.grid": False, "lines.linewidth": 9}
    ):
        assert figures.curves(found) == first


def test_ids_of_two_figures_never_meet(make_run) -> None:
    """If this failed, one figure would be clipped by the frame of another."""
    found = facts.read(make_run())
    drawn = [
        f
        for name in ("a", "b")
        for figure in figures.curves(found, name)
        for f in (figure.wide, figure.narrow)
        if f
    ]
    ids = [i for svg in drawn for i in re.findall(r'\bid="([^"]+)"', svg)]
    assert len(ids) == len(set(ids)) > 20
    for svg in drawn:
        used = set(re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', svg))
        assert used and {a or b for a, b in used} <= set(re.findall(r'\bid="([^"]+)"', svg))


def test_the_mean_is_centred_and_keeps_constants() -> None:
    """If this failed, the smoothed curve would lag behind or bend at its ends."""
    assert figures.smoothed(np.full(50, 3.0), 7) == pytest.approx(np.full(50, 3.0))
    line = np.arange(50.0)
    assert figures.smoothed(line, 7)[3:-3] == pytest.approx(line[3:-3])
    assert figures.smoothed(line, 7)[0] == pytest.approx(np.mean([0, 1, 2, 3]))


def test_long_logs_keep_their_spikes() -> None:
    """If this failed, a single bad step among a hundred thousand would vanish from the curve."""
    values = np.zeros(100_000)
    values[54_321], values[777] = 9.0, -9.0
    steps, kept = figures.thinned(np.arange(100_000.0), values)
    assert len(kept) <= figures.POINTS + 2 and kept.max() == 9.0 and kept.min() == -9.0
    assert steps[0] == 0 and steps[-1] == 99_999 and np.all(np.diff(steps) > 0)


@pytest.mark.parametrize("count", [1, 39, 40, 1000, 12345])
def test_the_window_is_odd(count: int) -> None:
    """If this failed, the mean would be of more steps on one side than on the other."""
    assert figures.window_of(count) % 2 == 1 and (count >= 40) == (figures.window_of(count) > 1)


def test_values_that_cannot_be_drawn_are_counted(make_run) -> None:
    """If this failed, a gap of NaN in the loss would go unnoticed."""
    rows = [{"step": 1, "loss": 4.0}, {"step": 2, "loss": None}, {"step": 3, "loss": 3.0}]
    assert "not finite: 1 value" in figures.loss(facts.read(make_run(metrics=rows))).caption


@pytest.mark.parametrize("loss", [0.0, -3.5, 1e-9, 700.0, 1e30])
def test_odd_losses_are_drawn_without_perplexity_where_it_says_nothing(make_run, loss: float) -> None:
    """If this failed, a diverged run, or one with a reward as loss, would have no page."""
    figure = figures.loss(facts.read(make_run(metrics=[{"step": 1, "loss": loss}])))
    assert ("perplexity" in figure.caption) == (0 <= loss < 15)


def test_nothing_to_draw_gives_no_figure(make_run) -> None:
    """If this failed, a run that was stopped before its first step would have empty frames."""
    assert figures.curves(facts.read(make_run(metrics=[]))) == []
    assert figures.table(facts.read(make_run("other", metrics=[]))) == []


def test_the_table_has_the_first_and_the_last_step(make_run) -> None:
    """If this failed, the numbers would end before the run did."""
    rows = figures.table(facts.read(make_run(steps=400)))
    assert len(rows) == 12 and rows[0][0] == "1" and rows[-1][0] == "400"
    assert all(row[2] != "–" for row in rows[1:]), "rows with a held-out loss are preferred"


def test_the_perplexity_axis_has_marks_however_little_the_loss_moved(make_run) -> None:
    """If this failed, a short fine-tuning would have an axis without a number on it."""
    rows = [{"step": step, "loss": 5.30 - step / 1000} for step in (1, 2, 3)]
    figure = figures.loss(facts.read(make_run(metrics=rows)))
    marks = re.findall(r">([\d.]+)</text>", figure.wide)
    assert len([mark for mark in marks if 198 < float(mark) < 201]) >= 2
