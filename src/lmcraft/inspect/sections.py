"""The rows of the page's tables: tokens with their losses, next tokens, the logit lens, modules with their shapes.

Proved by tests/unit/inspect/test_page.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from ..report import words
from ..report.tokens import visible
from ..text.tokenizer import Tokenizer
from .look import Inspection
from .pieces import Piece, label, text_of
from .predictions import Prediction
from .shapes import Call


@dataclass(frozen=True)
class Box:
    """One token: its markup, its colour in percent (None where nothing is known), what a pointer is told."""

    text: Markup
    id: int
    heat: str | None
    told: str
    special: bool
    given: bool
    breaks: bool


def blind_bits(seen: Inspection) -> float:
    """What a token costs if all are equally likely: the strongest colour."""
    return math.log2(max(2, seen.vocab))


def about(seen: Inspection, place: int) -> Prediction | None:
    """The prediction of the target's token at `place`."""
    if seen.predictions is None:
        return None
    at = place if seen.masked else place - 1
    return seen.predictions[at] if 0 <= at < len(seen.predictions) else None


def boxes(listed: Sequence[Piece], seen: Inspection, target: bool) -> list[Box]:
    """The tokens of one side; those of the target with their losses."""
    found = []
    for place, piece in enumerate(listed):
        known = about(seen, place) if target else None
        told, colour = f"id {piece.id}", None
        if known is not None and known.loss is not None and known.bits is not None:
            told += f" · {words.nats(known.loss)} nats · {known.bits:.2f} bits · rank {known.rank}"
            colour = f"{100 * min(1.0, known.bits / blind_bits(seen)):.0f}"
        given = target and place < seen.given and seen.given > 1
        found.append(
            Box(visible(piece.text), piece.id, colour, told, piece.special, given, "\n" in piece.text)
        )
    return found


def next_tokens(seen: Inspection, tokenizer: Tokenizer) -> list[dict[str, Any]]:
    """One line for each position: what was read, what came, and the likeliest tokens."""
    found = []
    for place, one in enumerate(seen.predictions or []):
        came = None if one.actual is None else visible(text_of(one.actual, tokenizer))
        found.append(
            {
                "place": place,
                "read": visible(seen.target[place].text),
                "came": came,
                "probability": words.share(one.probability, 1),
                "rank": words.count(one.rank),
                "nats": words.nats(one.loss),
                "bits": words.UNKNOWN if one.bits is None else f"{one.bits:.2f}",
                "guesses": [
                    {
                        "text": visible(text_of(guess.id, tokenizer)),
                        "id": guess.id,
                        "percent": f"{100 * guess.probability:.2f}",
                        "shown": f"{100 * guess.probability:.0f} %" if guess.probability >= 0.01 else "< 1 %",
                        "hit": guess.id == one.actual,
                    }
                    for guess in one.guesses
                ],
            }
        )
    return found


def lens_table(seen: Inspection, tokenizer: Tokenizer) -> dict[str, Any] | None:
    """The likeliest token after each block, the last block on top, with what was read above and what came below."""
    if seen.lens is None or seen.predictions is None:
        return None
    came = [one.actual for one in seen.predictions]
    rows = []
    for layer, guesses in reversed(list(enumerate(seen.lens.rows))):
        cells = [
            {
                "text": label(text_of(guess.id, tokenizer), 12),
                "percent": f"{100 * guess.probability:.0f}",
                "hit": guess.id == actual,
                "told": f"{label(text_of(guess.id, tokenizer))} (id {guess.id}), {words.share(guess.probability, 1)}",
            }
            for guess, actual in zip(guesses, came, strict=True)
        ]
        rows.append({"name": f"block {layer}" if layer else "embedding", "cells": cells})
    return {
        "columns": [label(piece.text, 12) for piece in seen.target[: seen.read]],
        "rows": rows,
        "foot_head": "token here" if seen.masked else "came next",
        "foot": [words.UNKNOWN if token is None else label(text_of(token, tokenizer), 12) for token in came],
    }


def shape_rows(calls: Sequence[Call], depth: int = 0) -> list[dict[str, Any]]:
    """The modules in the order of execution, indented as they contain each other."""
    found = []
    for call in calls:
        parameters = words.count(call.parameters) if call.parameters else ("shared" if call.tied else "")
        found.append(
            {
                "name": shown_name(call.name, depth),
                "kind": call.kind,
                "shape": " × ".join(map(str, call.shape)) or words.UNKNOWN,
                "parameters": parameters,
                "calls": call.calls,
                "copies": call.copies,
                "depth": depth,
            }
        )
        found += shape_rows(call.inside, depth + 1)
    return found


def shown_name(name: str, depth: int) -> str:
    """A module's name beside the one that it is in; the number of a block does not stand alone."""
    if not depth:
        return name
    *_, before, last = ["", *name.split(".")]
    return f"{before}.{last}" if last.isdigit() else last


def totals(seen: Inspection) -> list[tuple[str, str]]:
    """Parameters, and what the model remembers while it writes."""
    found = [("parameters, shared ones once", words.count(seen.parameters))]
    if seen.memory is not None:
        per_token = f"{words.size(seen.memory.per_token)} per token"
        if seen.memory.per_token == 0:
            per_token = f"{words.size(seen.memory.fixed)}, however long the text"
        found.append(("memory while writing one text", per_token))
        if seen.memory.per_source_token:
            found.append(("and for its source", f"{words.size(seen.memory.per_source_token)} per token"))
    return found
