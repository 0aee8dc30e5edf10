"""The options for choosing tokens, shared by `generate` and `chat`.

Proved by tests/cli/test_life.py.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from ..core import config
from ..core.config import Document
from ..core.errors import UserError

if TYPE_CHECKING:
    from ..generate.language_model import LanguageModel

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

Adapter = Annotated[
    list[str] | None,
    typer.Option(help="A run or directory of an adapter beside the model; may be given again."),
]
Strength = Annotated[
    list[float] | None, typer.Option(help="1 as trained, 0 off; one number, or one for each adapter.")
]


def load(model: str, adapter: list[str] | None, strength: list[float] | None) -> LanguageModel:
    """The model with the adapters asked for, each as strong as the options say."""
    beside = _named(adapter or [])
    if strength is not None and len(strength) not in (1, len(beside)):
        raise UserError(
            f"{len(strength)} strengths for {len(beside)} adapters", where="option --strength",
            fix="give one number, or one for each --adapter in the same order",
        )  # fmt: skip
    from .. import api

    lm = api.load(model, adapters=beside)
    if strength is not None and not lm.adapters:
        raise UserError("there is no adapter to set the strength of", where="option --strength")
    if strength is not None and len(strength) == 1:
        lm.set_strength(strength[0])
    elif strength is not None:
        for name, one in zip(beside, strength, strict=True):
            lm.set_strength(one, name)
    return lm


def _named(places: list[str]) -> dict[str, str]:
    """Adapters by their names: the last word of each path that says more than `adapter`."""
    found: dict[str, str] = {}
    for place in places:
        words = [word for word in place.split("/") if word not in ("adapter", "")]
        name = (words or [place])[-1].replace(".", "-")
        if name in found:
            raise UserError(
                f"two adapters are called {name}", where="option --adapter", fix="rename the directory of one"
            )
        found[name] = place
    return found


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
