"""An inspection as one JSON document: tokens, ids, losses, likeliest tokens, and attention when it is asked for.

Proved by tests/cli/test_inspect.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from ..text.tokenizer import Tokenizer
from .look import Inspection
from .pieces import Piece, text_of
from .predictions import Prediction


def document(seen: Inspection, tokenizer: Tokenizer, attention: bool) -> dict[str, Any]:
    """Plain values, losses in nats; `predictions[i]` is about the token after `target[i]`, or if `masked` about it."""
    whole = seen.target_total if seen.given > 1 else seen.total
    found: dict[str, Any] = {
        "kind": seen.kind,
        "parameters": seen.parameters,
        "source": _tokens(seen.source),
        "target": _tokens(seen.target),
        "context_tokens": seen.given,
        "masked": seen.masked,
        "scored_tokens": whole.tokens,
        "loss": whole.nats,
        "mean_loss": whole.mean,
        "bits_per_token": None if whole.mean is None else whole.mean / math.log(2),
        "perplexity": whole.perplexity,
        "predictions": None
        if seen.predictions is None
        else [_prediction(one, tokenizer) for one in seen.predictions],
        "lens": None if seen.lens is None else [[asdict(guess) for guess in row] for row in seen.lens.rows],
        "memory_bytes": None if seen.memory is None else asdict(seen.memory),
        "notes": seen.notes,
    }
    if attention:
        found["attention"] = [
            {
                "module": one.module,
                "side": one.side,
                "layer": one.layer,
                "weights": [
                    [[round(w, 6) for w in row] for row in head] for head in one.weights_HTM.tolist()
                ],
            }
            for one in seen.maps
        ]
    return found


def _tokens(listed: Sequence[Piece]) -> list[dict[str, Any]]:
    return [{"id": piece.id, "text": piece.text, "special": piece.special} for piece in listed]


def _prediction(one: Prediction, tokenizer: Tokenizer) -> dict[str, Any]:
    return {
        "token": one.actual, "probability": one.probability, "rank": one.rank, "loss": one.loss, "bits": one.bits,
        "entropy": one.entropy,
        "top": [
            {"id": guess.id, "text": text_of(guess.id, tokenizer), "probability": guess.probability}
            for guess in one.guesses
        ],
    }  # fmt: skip
