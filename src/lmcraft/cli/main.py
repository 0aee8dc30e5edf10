"""The command line `lmcraft`: finds the verbs, loads the one that was asked for, and turns errors into exit codes.

1. A file of this folder that defines a function `command` (or `app`, a typer.Typer, for a verb that has verbs of its
   own) is a verb. Names and help lines are read from the syntax tree; only the chosen verb is imported, so help needs
   no torch.
2. Exit codes: 0 done; 2 a mistake of the user, told in a few lines without a traceback; 1 our own bug, with the
   traceback in a file; 130 and 143 interrupted; 141 the reader of our output has gone.
3. With `--json`, errors too are exactly one JSON document on stdout.

Proved by tests/cli/test_help.py and tests/cli/test_errors.py.
"""

from __future__ import annotations

import ast
import os
import sys
import traceback
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import import_module, metadata
from pathlib import Path
from typing import Any, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup

from ..core import heap
from ..core.device import home
from ..core.errors import UserError
from ..core.log import speaks
from ..core.run import to_json, write_text

# Help lists the verbs in the order of a model's life; a verb that is not named here comes after them.
LIFE = "demo pull models show cp rm data tokenizer plan train compare generate chat read inspect eval board feedback"
LATER = "merge export serve study runs report doctor"
TRAIN = (["demo"], ["train"], ["compare"], ["study"], ["feedback", "round"])  # these verbs
MARKUP = "markdown"


class _Verbs(TyperGroup):
    """A group whose commands are placeholders with a help line until one of them is called."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.commands = {
            name: TyperCommand(name, help=line, rich_markup_mode=MARKUP) for name, line in verbs().items()
        }

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, command, rest = super().resolve_command(ctx, args)
        return name, load(name) if command else None, rest


app = typer.Typer(
    cls=_Verbs,
    pretty_exceptions_enable=False,
    rich_markup_mode=MARKUP,
    context_settings={"max_content_width": 110},
)


def _version(asked: bool) -> None:
    if asked:
        print(f"lmcraft {metadata.version('lmcraft')}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(
        False, "--version", help="Print the version.", callback=_version, is_eager=True
    ),
) -> None:
    """Carry a language model through its whole life, on the hardware you have.

    Start with `lmcraft demo`. Every verb explains itself with --help.
    """


def verbs() -> dict[str, str]:
    """The verbs, in the order of help, and the first line of each one's docstring; imports none of them."""
    found = {}
    for file in sorted(Path(__file__).parent.glob("*.py")):
        tree = ast.parse(file.read_bytes(), str(file))
        if file.stem != "main" and any(_defines_verb(node) for node in tree.body):
            found[file.stem] = (ast.get_docstring(tree) or "").partition("\n")[0]
    order = {name: place for place, name in enumerate(f"{LIFE} {LATER}".split())}
    return dict(sorted(found.items(), key=lambda item: (order.get(item[0], len(order)), item[0])))


def load(name: str) -> Any:
    """Imports a verb and makes its command."""
    module = import_module(f"lmcraft.cli.{name}")
    if hasattr(module, "app"):
        settings = module.app.info
        settings.name, settings.help = name, settings.help or module.__doc__
        return typer.main.get_group(module.app)
    single = typer.Typer(add_completion=False, rich_markup_mode=MARKUP)
    single.command(name)(module.command)
    return typer.main.get_command(single)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs the command line and exits with its code."""
    if arguments is None and any(sys.argv[1 : 1 + len(verb)] == verb for verb in TRAIN):
        heap.restart()
    code = run(sys.argv[1:] if arguments is None else arguments)
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        code = _reader_has_gone()
    raise SystemExit(code)


def run(arguments: Sequence[str]) -> int:
    """Runs one command line and returns its exit code."""
    as_json = "--json" in arguments
    try:
        outcome = typer.main.get_command(app).main(
            list(arguments) or ["--help"], prog_name="lmcraft", standalone_mode=False
        )
        return outcome if isinstance(outcome, int) else 0
    except UserError as error:
        return _tell(error, as_json)
    except typer.TyperException as error:
        return _tell(_usage(error), as_json)
    except (KeyboardInterrupt, typer.Abort):
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return _reader_has_gone()
    except Exception as error:
        return _report_bug(error, arguments, as_json)


def _tell(error: UserError, as_json: bool) -> int:
    if error.everywhere and not speaks():
        return error.exit_code
    if as_json:
        print(to_json({"error": {part: getattr(error, part) for part in ("what", "where", "why", "fix")}}))
    else:
        print(f"error: {error}", file=sys.stderr)
    return error.exit_code


def _usage(error: typer.TyperException) -> UserError:
    """The library's complaint about arguments in our own form."""
    context = getattr(error, "ctx", None)
    path = context.command_path if context else "lmcraft"
    return UserError(error.format_message(), fix=f"{path} --help")


def _report_bug(error: Exception, arguments: Sequence[str], as_json: bool) -> int:
    """Writes the traceback to a file and one line that names it."""
    when = datetime.now(UTC)
    told = "".join(traceback.format_exception(error))
    text = (
        f"lmcraft {metadata.version('lmcraft')}, {when.isoformat()}\nlmcraft {' '.join(arguments)}\n\n{told}"
    )
    what = f"this is a bug in lmcraft: {type(error).__name__}: {error}".partition("\n")[0]
    try:
        file = write_text(home() / f"crash-{when:%Y%m%dT%H%M%S}-{os.getpid()}.txt", text)
    except UserError:  # nowhere to write: better a traceback on the screen than none
        file = None
        print(told, file=sys.stderr)
    if as_json:
        print(to_json({"error": {"what": what, "where": file, "why": None, "fix": None}}))
    else:
        print(f"error: {what}" + (f"; traceback in {file}" if file else ""), file=sys.stderr)
    return 1


def _reader_has_gone() -> int:
    """Points stdout at nothing, or the interpreter complains about the broken pipe once more when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 141


def _defines_verb(node: ast.stmt) -> bool:
    match node:
        case ast.FunctionDef(name="command"):
            return True
        case ast.Assign(targets=[ast.Name(id="app")]):
            return True
    return False
