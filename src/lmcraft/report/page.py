"""Writes report.html: one page without any outside request that tells what a run, or a whole demo, did.

1. The page has no script, and its content security policy forbids every request; pictures and styles are in it.
2. All text of a run passes Jinja's autoescape; control characters are shown by name.
3. The same run gives the same bytes.

Proved by tests/unit/report/test_page.py, tests/unit/report/test_demo_page.py and tests/cli/test_report.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ..core.run import Run, write_text
from . import demo, facts, figures, samples, story, tokens, words
from .statistics import statistics
from .tables import evaluations, lineage, resources

NAME = "report.html"


def write(run: Run) -> Path:
    """Writes `<run>/report.html` from what is in the run, whatever is missing there.

    Raises:
        UserError: the disk is full or the directory cannot be written.
    """
    found = facts.read(run)
    template = environment().get_template("run.jinja")
    page = template.render(
        facts=found,
        title=story.title(found),
        sentences=story.sentences(found),
        numbers=story.numbers(found),
        commands=story.next_commands(found),
        figures=figures.curves(found),
        rows=figures.table(found),
        samples=samples.before_after(found),
        settings=samples.settings(found),
        preview=tokens.rows(found.data.get("preview")),
        statistics=statistics(found),
        evaluations=evaluations(found),
        resources=resources(found),
        lineage=lineage(found),
    )
    return run.write_text(NAME, _encodable(page))


def write_demo(directory: Path, summary: Mapping[str, Any], stages: Sequence[Run]) -> Path:
    """Writes `<directory>/report.html`, the story of a whole demo.

    Args:
        summary: all of it optional: `stages` = {name: {seconds, tokens, parameters, loss, eval_loss, bits_per_byte,
            bits_per_byte_of, share_stopped, peak_memory_bytes}}, `chats` = [{prompt, base: {text, finish_reason},
            chat: {text, finish_reason}}], `seconds` of everything, `next` = the command to chat.
        stages: the runs, in the order they were made.

    Raises:
        UserError: the disk is full or the directory cannot be written.
    """
    template = environment().get_template("demo.jinja")
    page = template.render(demo.story(Path(directory), dict(summary), stages))
    return write_text(Path(directory) / NAME, _encodable(page))


def environment() -> Environment:
    """Finds the templates; escapes all text, refuses unknown names."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {"plain": tokens.plain, "share": words.share}
    return environment


def _encodable(page: str) -> str:
    """JSON may hold half of a surrogate pair, which no file can."""
    return page.encode("utf-8", "replace").decode("utf-8")
