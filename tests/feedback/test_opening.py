"""Without the extra, the package works and the verb names what to install."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from lmcraft.core.errors import UserError
from lmcraft.feedback import opening


def test_a_missing_library_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """If this failed, a user without the extra would see an ImportError."""
    find = opening.find_spec
    monkeypatch.setattr(opening, "find_spec", lambda name: None if name == "alembic" else find(name))
    with pytest.raises(UserError, match="needs alembic") as told:
        opening.open_store("unused.db")
    assert "lmcraft[feedback]" in told.value.fix


def test_only_the_store_needs_its_libraries(tmp_path: Path) -> None:
    """If this failed, exported ratings could only be worked with where extra and torch are there."""
    parts = "opening guidelines judgement agreement preferences reliability export simulated rules reading"
    source = (
        "import sys; sys.modules.update(dict.fromkeys(['sqlalchemy', 'alembic', 'torch']))\n"
        f"from lmcraft.feedback import {', '.join(parts.split())}"
    )
    done = subprocess.run([sys.executable, "-c", source], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_commands_work_on_either_database(
    url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """If this failed, raters on several machines could not share one project from the command line."""
    from lmcraft.cli import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LMCRAFT_FEEDBACK_DB", url)
    Path("a.jsonl").write_text('{"prompt": "?", "answers": ["1 \\u0000", "no"]}\n')
    verbs = (
        "new p",
        "add p a.jsonl",
        "simulate p --rater regex:1",
        "export p r.jsonl --to ratings",
        "import p r.jsonl",
    )
    for words in (*verbs, "agreement p --who all", "status p"):
        capsys.readouterr()
        assert main.run(["feedback", *words.split(), "--json"]) == 0, capsys.readouterr().out
    assert json.loads(capsys.readouterr().out)["projects"][0]["rated_items"] == 1
