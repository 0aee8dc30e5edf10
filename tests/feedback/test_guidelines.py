"""Guidelines: read from files and options, checked before anybody rates by them."""

from __future__ import annotations

from pathlib import Path

import pytest

from lmcraft.core.errors import UserError
from lmcraft.feedback.guidelines import DEFAULT_TEXT, read

FILE = """
text: |
  Which answer helps more?
criteria:
  - {name: coherence, asks: Does it hang together?, weight: 2}
  - {name: safety, low: 0, high: 1}
"""


def test_a_file_and_options_add_up(tmp_path: Path) -> None:
    """If this failed, raters would be asked something else than was written."""
    (tmp_path / "g.yaml").write_text(FILE)
    found = read(tmp_path / "g.yaml", ["relevance", "tone:-2-2"])
    assert found.text == "Which answer helps more?\n" and found.compare
    assert [(one.name, one.low, one.high, one.weight) for one in found.criteria] == [
        ("coherence", 1, 5, 2.0), ("safety", 0, 1, 1.0), ("relevance", 1, 5, 1.0), ("tone", -2, 2, 1.0),
    ]  # fmt: skip
    assert found.criterion("relevance").asks and found.criterion("none") is None
    (tmp_path / "g.md").write_text("# Only words")
    assert read(tmp_path / "g.md").text == "# Only words"
    assert read(None).text == DEFAULT_TEXT


@pytest.mark.parametrize(
    ("content", "options", "what"),
    [
        ("criteria: [{name: a}, {name: a}]", [], "same name"),
        ("criteria: [{name: a, low: 5}]", [], "low must be below high"),
        ("compare: false", [], "nothing to rate"),
        ("critera: []", [], "did you mean 'criteria'"),
        ("{}", ["Coherence!"], "no criterion"),
        ("{}", ["a:5-1"], "low must be below high"),
    ],
)
def test_what_cannot_be_asked_is_told(tmp_path: Path, content: str, options: list[str], what: str) -> None:
    """If this failed, a mistake would be found after people had rated by it."""
    (tmp_path / "g.yaml").write_text(content)
    with pytest.raises(UserError, match=what):
        read(tmp_path / "g.yaml", options)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    """If this failed, a typing mistake would be a traceback."""
    with pytest.raises(UserError, match="cannot read the guidelines"):
        read(tmp_path / "none.txt")
