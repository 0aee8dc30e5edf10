"""Help: every verb explains itself, and the list of verbs is the list of files."""

from __future__ import annotations

import pytest

from lmcraft.cli import main


@pytest.mark.parametrize("verb", main.verbs())
def test_every_verb_explains_itself_and_speaks_json(lmcraft, verb: str) -> None:
    """If this failed, a verb could not be learnt from the command line, or not be used by programs."""
    done = lmcraft(verb, "--help")
    assert done.returncode == 0, done.stderr
    assert f"Usage: lmcraft {verb}" in done.stdout and "--help" in done.stdout
    assert "--json" in done.stdout or "COMMAND" in done.stdout, f"{verb} has no --json"


def test_help_lists_every_verb_with_its_sentence(lmcraft) -> None:
    """If this failed, a verb would exist that nobody finds."""
    done = lmcraft("--help")
    assert done.returncode == 0
    words = " ".join(done.stdout.replace("│", " ").split())
    for verb, sentence in main.verbs().items():
        assert sentence and f"{verb} {' '.join(sentence.split())}".replace("`", "") in words
    assert lmcraft().stdout == done.stdout


def test_a_verb_with_verbs_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """If this failed, `lmcraft tokenizer train` would not be found."""
    import sys
    from types import ModuleType

    import typer

    module = ModuleType("lmcraft.cli.pets", "Looks after pets.")
    module.app = typer.Typer()
    module.app.command("feed")(lambda: print("fed"))
    monkeypatch.setitem(sys.modules, "lmcraft.cli.pets", module)
    command = main.load("pets")
    assert (command.name, list(command.commands)) == ("pets", ["feed"])
    assert command.help == "Looks after pets."


def test_the_version(lmcraft) -> None:
    """If this failed, a bug report could not say which lmcraft it is about."""
    import lmcraft as package

    assert lmcraft("--version").stdout == f"lmcraft {package.__version__}\n"
