"""Answers judged elsewhere: a program that listens at a URL gets them as JSON and returns scores.

    POST {"answers": [{"prompt": "…", "answer": "…", "stopped": true}, …]}   →   {"scores": [0.3, …]}

1. Nothing is sent anywhere unless this reward is asked for, and then only to the URL that is named: an answer that
   points elsewhere is not followed.
2. A call is tried TRIES times; then training stops with everything saved.

Proved by tests/unit/rewards/test_remote.py.
"""

from __future__ import annotations

import http.client
import json
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field

from ..core.errors import UserError
from ..text.tokenizer import Tokenizer
from .reward import Answer, Reward, Weighted

TRIES = 3
PAUSE_S = 1.0
LARGEST_BYTES = 10_000_000


class Config(Weighted):
    """Where the judge listens, and how long to wait for it."""

    kind: Literal["remote"] = "remote"
    url: str = Field(..., pattern=r"^https?://", description="of the program that judges")
    timeout_s: float = Field(60.0, gt=0)


def build(config: Config, tokenizer: Tokenizer) -> Reward:
    """The reward."""
    return lambda answers: _judged(config, answers)


def _judged(config: Config, answers: Sequence[Answer]) -> list[float]:
    sent = [{"prompt": a.question, "answer": a.text, "stopped": a.stopped} for a in answers]
    for attempt in range(TRIES):
        try:
            return _scores(_post(config, {"answers": sent}), len(answers))
        except (OSError, http.client.HTTPException, ValueError, OverflowError, RecursionError) as error:
            failure = str(error)
            if isinstance(error, urllib.error.HTTPError):
                error.close()  # it holds the connection
        if attempt < TRIES - 1:
            time.sleep(PAUSE_S * attempt)
    raise UserError(
        "the judge gives no scores", where=config.url, why=failure,
        fix="see that it runs and returns one number for each answer; the same command goes on",
    )  # fmt: skip


def _post(config: Config, content: dict[str, Any]) -> Any:
    request = urllib.request.Request(
        config.url, json.dumps(content).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.build_opener(_Stays).open(request, timeout=config.timeout_s) as response:
        return json.loads(response.read(LARGEST_BYTES))


class _Stays(urllib.request.HTTPRedirectHandler):
    """Goes nowhere but to the URL that it was given."""

    def redirect_request(self, *_: Any) -> None:
        """None: a redirection is an error."""


def _scores(found: Any, count: int) -> list[float]:
    scores = found.get("scores") if isinstance(found, dict) else None
    if not isinstance(scores, list) or len(scores) != count:
        raise ValueError(f"expected {{'scores': [{count} numbers]}}")
    if not all(isinstance(score, (int, float)) for score in scores):
        raise ValueError("a score is no number")
    return [float(score) for score in scores]
