"""Train a tokenizer on your own text, or see how one cuts a text into tokens.

Proved by tests/cli/test_tokenizer.py.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..core.errors import UserError
from ..core.log import Progress, say
from .output import emit, table

if TYPE_CHECKING:
    from ..data.records import Record
    from ..text.tokenizer import Compression, Tokenizer

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]

app = typer.Typer(help=(__doc__ or "").partition("\n")[0], no_args_is_help=True)

_NO_TEXT = ("label", "tags", "winner", "model_a", "model_b")
_COLOURS = ("blue", "green", "magenta", "yellow", "cyan")
_VISIBLE = str.maketrans({" ": "·", "\n": "↵", "\t": "→", "\r": "←"})


@app.command()
def train(
    files: Annotated[
        list[Path], typer.Argument(help="Text, JSON Lines, CSV or Parquet; whatever stages train on.")
    ],
    out: Annotated[Path, typer.Option(help="The directory to write.")],
    vocab: Annotated[int, typer.Option(help="How many tokens, special ones and bytes included.")] = 4096,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a tokenizer that is there.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Learn a vocabulary from texts: `lmcraft tokenizer train book.txt --out tokenizers/book`.

    The same texts give the same tokenizer, in whatever order they come. A model keeps the tokenizer that it was
    trained with; a new one is for a new model.
    """
    from ..data.load import load
    from ..text.tokenizer import Tokenizer

    if (out / "tokenizer.json").exists() and not overwrite:
        raise UserError(
            "there is a tokenizer already", where=str(out / "tokenizer.json"),
            why="a model that was trained with it could not be read without it",
            fix="name another --out, or add --overwrite",
        )  # fmt: skip
    loaded = load([str(file) for file in files])
    texts = [text for record in loaded.records for text in _texts(record)]
    if not any(texts):
        loaded.require()
        raise UserError("there is no text to learn from", where=", ".join(map(str, files)))
    if loaded.problems:
        say(f"note: {len(loaded.problems):,} rows were left out; `lmcraft data` lists them")
    with Progress(None, "texts", "tokenizer") as progress:
        tokenizer = Tokenizer.train(_counted(texts, progress), vocab)
    tokenizer.save(out)
    if tokenizer.size < vocab:
        say(f"note: the texts offered {tokenizer.size:,} tokens, not {vocab:,}: no other pair occurs twice")
    result = {"directory": str(out), "asked": vocab, **_facts(tokenizer), "texts": len(texts)}
    result["on_training_text"] = _measures(tokenizer.compression(texts))
    emit(result, as_json, lambda: _summary(result))


@app.command()
def show(
    tokenizer: Annotated[
        str, typer.Argument(help="A directory, a run, a tokenizer.json or a name in the store.")
    ],
    text: Annotated[str | None, typer.Argument(help="The text to cut; default: standard input.")] = None,
    plain: Annotated[
        bool, typer.Option("--plain", help="Take names of special tokens in the text as ordinary text.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show where a tokenizer cuts a text, the ids, and how much text a token holds."""
    from ..text.tokenizer import Compression, Tokenizer

    found = Tokenizer.load(_place(tokenizer))
    if text is None:
        text = "" if sys.stdin.isatty() else sys.stdin.read()
    ids = found.encode_plain(text) if plain else found.encode(text)
    tokens = [
        {"id": number, "text": _visible(found.token_bytes(number)), "special": number in found.special_ids}
        for number in ids
    ]
    words = len(text.split())
    measures = _measures(Compression(len(text.encode("utf-8")), len(text), words, len(ids)))
    result = {"tokenizer": tokenizer, **_facts(found), "tokens": tokens, "compression": measures}
    emit(result, as_json, lambda: _drawing(result))


def _place(name: str) -> Path:
    """Where the tokenizer is: a run keeps it with its model."""
    from ..data.store import resolve

    place = resolve(name)
    return place / "model" if (place / "model" / "tokenizer.json").is_file() else place


def _texts(record: Record) -> list[str]:
    from ..data.records import parts

    return [text for what, text in parts(record) if what not in _NO_TEXT]


def _counted(texts: list[str], progress: Progress):
    for text in texts:
        progress.update()
        yield text


def _facts(tokenizer: Tokenizer) -> dict[str, Any]:
    roles = ("bos", "eos", "pad", "end_of_turn")
    return {
        "size": tokenizer.size,
        "digest": tokenizer.digest,
        "special": {role: getattr(tokenizer, role) for role in roles},
    }


def _measures(counts: Compression) -> dict[str, float]:
    return {
        "bytes": counts.bytes,
        "tokens": counts.tokens,
        "bytes_per_token": round(counts.bytes_per_token, 4),
        "tokens_per_byte": round(counts.tokens_per_byte, 4),
        "tokens_per_word": round(counts.tokens_per_word, 4),
    }


def _summary(result: dict[str, Any]) -> str:
    measures = result["on_training_text"]
    rows = [
        ["tokens", f"{result['size']:,}"],
        ["texts", f"{result['texts']:,} ({measures['bytes']:,} bytes)"],
        ["bytes per token", f"{measures['bytes_per_token']:.2f} (on the training text)"],
        ["written to", result["directory"]],
    ]
    return table(["tokenizer", ""], rows)


def _visible(token: bytes) -> str:
    """The token's text; bytes that are no whole character as \\x.."""
    return token.decode("utf-8", "backslashreplace")


def _drawing(result: dict[str, Any]) -> None:
    """Prints the tokens and their ids: in colours on a terminal, with | between them elsewhere."""
    from rich.console import Console
    from rich.text import Text

    console = Console(soft_wrap=True, highlight=False)
    line, numbers = Text(), Text()
    for place, token in enumerate(result["tokens"]):
        style = f"black on {'red' if token['special'] else _COLOURS[place % len(_COLOURS)]}"
        if place and not console.is_terminal:
            line.append("|")
        line.append(token["text"].translate(_VISIBLE), style)
        numbers.append(" " if place else "")
        numbers.append(str(token["id"]), style)
    if result["tokens"]:
        console.print(line)
        console.print(numbers)
    counts = result["compression"]
    console.print(
        f"{counts['tokens']} tokens, {counts['bytes']} bytes: {counts['bytes_per_token']:.2f} bytes per token, "
        f"{counts['tokens_per_word']:.2f} tokens per word; vocabulary {result['size']:,}"
    )
