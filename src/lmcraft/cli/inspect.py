"""Look inside a model: tokens, attention, next tokens, losses, the logit lens and shapes, on one page.

Proved by tests/cli/test_inspect.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..core.errors import UserError
from . import settings as s
from .output import emit


def command(
    model: Annotated[str, typer.Argument(help="A run, a model directory or a name in the store.")],
    text: Annotated[
        str | None, typer.Argument(help="The text to read, or the source; default: standard input.")
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(help="What comes after it; for a model with a source, instead of its own words."),
    ] = None,
    chat: Annotated[
        bool, typer.Option("--chat", help="The text is a user's message in the chat template.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(help="The page (NAME.html), or a folder for it; default: inspect-MODEL.html."),
    ] = None,
    top: Annotated[int, typer.Option(min=1, max=50, help="How many of the likeliest tokens to show.")] = 5,
    words: Annotated[bool, typer.Option("--words", help="Align words instead of tokens.")] = False,
    max_new_tokens: s.MaxNewTokens = 128,
    attention: Annotated[bool, typer.Option("--attention", help="With --json: all weights too.")] = False,
    as_json: s.AsJson = False,
) -> None:
    """Look inside a model: `lmcraft inspect runs/book "It was the best of times"`.

    Writes one page that needs no network, and a picture (PNG) beside it.
    """
    given = s.text(text)
    if target is not None:
        target = s.text(target)
    file = page_file(model, out)
    from .. import api
    from ..inspect import look, numbers, overview, page

    lm = api.load(model)
    if chat and lm.model.reads_source:
        raise UserError("a model that reads a source has no conversation", fix="leave --chat out")
    seen = look.look(lm, given, target, chat=chat, top=top, max_new_tokens=max_new_tokens)
    name = Path(model).name or model
    written = page.write(file, name, seen, lm.tokenizer, words)
    picture = overview.write(file.with_suffix(".png"), name, seen, lm.tokenizer, words)
    result: dict[str, Any] = {
        "model": model, "page": str(written), "picture": str(picture), **numbers.document(seen, lm.tokenizer, attention)
    }  # fmt: skip
    emit(result, as_json, lambda: summary(result))


def page_file(model: str, out: Path | None) -> Path:
    """Where the page goes."""
    name = f"inspect-{Path(model).resolve().name or 'model'}.html".replace(":", "-")
    if out is None:
        return Path(name)
    if out.suffix.lower() in (".html", ".htm"):
        return out
    if out.suffix and not out.is_dir():
        raise UserError(
            "the page is HTML", where=str(out), fix=f"name it {out.with_suffix('.html')}, or name a folder"
        )
    return out / name


def summary(result: dict[str, Any]) -> str:
    """A few lines for people."""
    lines = []
    if result["perplexity"] is not None:
        each = f"{result['mean_loss']:.3f} nats each, perplexity {result['perplexity']:.4g}"
        lines.append(f"{result['scored_tokens']} tokens, {each}")
    return "\n".join([*lines, *result["notes"], result["page"], result["picture"]])
