"""Exit codes and messages: the user's mistakes, our bugs, interrupts, and a reader that has gone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

VERB = """
import sys, types, typer
from lmcraft.cli import main
verb = types.ModuleType("lmcraft.cli.runs")
def command(as_json: bool = typer.Option(False, "--json")) -> None:
    {body}
verb.command = command
sys.modules["lmcraft.cli.runs"] = verb
main.main(["runs", *sys.argv[1:]])
"""


def verb(body: str, *arguments: str, **settings: object) -> subprocess.CompletedProcess[str]:
    """Runs the command line with a verb `runs` that does only this."""
    command = [sys.executable, "-c", VERB.format(body=body), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, **settings)


MISTAKE = (
    "from lmcraft.core.errors import UserError; raise UserError('it broke', where='a.yaml:3', fix='mend it')"
)


def test_a_mistake_of_the_user() -> None:
    """If this failed, a user's mistake would be shown as a crash, or as success."""
    done = verb(MISTAKE)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: it broke\n  where: a.yaml:3\n  fix: mend it\n"
    done = verb(MISTAKE, "--json")
    assert (done.returncode, done.stderr) == (2, "")
    assert json.loads(done.stdout) == {
        "error": {"what": "it broke", "where": "a.yaml:3", "why": None, "fix": "mend it"}
    }


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["rusn"], "No such command 'rusn'. Did you mean 'runs'?"),
        (["runs", "--jsno"], "--jsno"),
        (["runs", "a", "b"], "unexpected extra argument"),
    ],
)
def test_wrong_arguments(lmcraft, arguments: list[str], told: str) -> None:
    """If this failed, a typo on the command line would have another exit code or form than other mistakes."""
    done = lmcraft(*arguments)
    assert (done.returncode, done.stdout) == (2, "") and done.stderr.startswith("error: ")
    assert told in done.stderr and "--help" in done.stderr
    done = lmcraft(*arguments, "--json")
    assert done.returncode == 2 and told in json.loads(done.stdout)["error"]["what"]


def test_a_bug_of_ours_leaves_its_traceback_in_a_file(tmp_path: Path) -> None:
    """If this failed, users would see a traceback, or we would get bug reports without one."""
    home = {**os.environ, "LMCRAFT_HOME": str(tmp_path)}
    done = verb("1 / 0", env=home)
    assert done.returncode == 1 and done.stdout == ""
    (file,) = tmp_path.glob("crash-*.txt")
    assert done.stderr == (
        f"error: this is a bug in lmcraft: ZeroDivisionError: division by zero; traceback in {file}\n"
    )
    assert "Traceback" in file.read_text() and "1 / 0" not in done.stderr
    done = verb("1 / 0", "--json", env=home)
    assert done.returncode == 1 and "ZeroDivisionError" in json.loads(done.stdout)["error"]["what"]


def test_a_bug_with_nowhere_to_write(tmp_path: Path) -> None:
    """If this failed, the traceback would be lost together with the disk."""
    (tmp_path / "file").write_text("")
    done = verb("1 / 0", env={**os.environ, "LMCRAFT_HOME": str(tmp_path / "file" / "x")})
    assert done.returncode == 1 and "Traceback" in done.stderr and "this is a bug" in done.stderr


def test_an_interrupt() -> None:
    """If this failed, Ctrl-C would print a traceback or look like success."""
    # a shell starts what runs in the background with Ctrl-C ignored, and these tests may be run there
    listen = "signal.signal(signal.SIGINT, signal.default_int_handler)"
    done = verb(f"import os, signal; {listen}; os.kill(os.getpid(), {int(signal.SIGINT)})")
    assert done.returncode == 130 and "Traceback" not in done.stderr


def test_a_reader_that_has_gone() -> None:
    """If this failed, `lmcraft runs | head -1` would end with a traceback."""
    command = [sys.executable, "-c", VERB.format(body="print('line ' * 100_000)")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.read(10)
        process.stdout.close()
        told = process.stderr.read()
    assert told == "" and process.returncode in (1, 141)


def test_the_exit_code_of_a_verb_is_kept() -> None:
    """If this failed, a verb could not say "interrupted after saving"."""
    assert verb("raise typer.Exit(143)").returncode == 143
