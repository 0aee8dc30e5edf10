"""The options for choosing tokens, shared by `generate` and `chat`.

Proved by tests/cli/test_life.py.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from ..core import config
from ..core.config import Document
from ..core.errors import UserError

MaxNewTokens = Annotated[int, typer.Option("--max-new-tokens", "-m", help="Longest answer in tokens.")]
Temperature = Annotated[float, typer.Option("--temperature", "-t", help="0 = always the likeliest token.")]
TopK = Annotated[int | None, typer.Option(help="Choose among the k likeliest tokens.")]
TopP = Annotated[
    float | None, typer.Option(help="Choose among the likeliest tokens that together have share p.")
]
MinP = Annotated[float | None, typer.Option(help="Leave out tokens less likely than p times the likeliest.")]
Penalty = Annotated[float, typer.Option("--repetition-penalty", help="Above 1: say the same less often.")]
Stop = Annotated[list[str] | None, typer.Option(help="End the answer before this text; may be given again.")]
Seed = Annotated[int, typer.Option(help="The same seed gives the same text.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


def text(argument: str | None) -> str:
    """The argument, or standard input if there is none or it is "-"; what is not UTF-8 is a mistake."""
    try:
        given = sys.stdin.read() if argument in (None, "-") else str(argument)
        given.encode()  # bytes of the command line that are not UTF-8 arrive as lone surrogates
    except UnicodeError as error:
        where = "standard input" if argument in (None, "-") else "argument"
        raise UserError("the text is not UTF-8", where=where) from error
    return given


def sampling(**values: object):
    """A checked `Sampling`; a value out of range is a mistake that names its option."""
    from ..generate.sampling import Sampling

    document = Document("options")
    for name, value in values.items():
        document.value[name] = value
        document.places[(name,)] = f"option --{name.replace('_', '-')}"
    return config.validate(Sampling, document)
