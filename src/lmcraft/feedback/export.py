"""What leaves the store as JSON Lines: ratings, votes of an arena, prompts; preferences.py makes preferences.

    ratings   {"key", "item", "prompt", "answers", "rater", "simulated", "action", "judgement", "created_at", …}
    votes     {"model_a", "model_b", "winner", "conversation_a", "conversation_b", "judge", …}, as LMArena writes them
    prompts   {"prompt": messages}

1. Of two answers, the one that was shown first is model_a: the arena's left.
2. Every row says whether its rater is simulated.
3. `reading.py` reads ratings back into any store: the same keys, nothing twice.

Proved by tests/feedback/test_exchange.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..data.records import Message
from .agreement import chosen
from .judgement import BOTH_BAD, TIE, Item, Rating, Snapshot

_WINNERS = {TIE: "tie", BOTH_BAD: "tie (bothbad)"}


def ratings(snapshot: Snapshot) -> Iterator[dict[str, Any]]:
    """Every rating of the snapshot with the item it is about; complete enough to be read into another store."""
    for rating in snapshot.ratings:
        item = snapshot.items[rating.item]
        yield {
            "key": rating.key, "project": snapshot.project, "item": item.key, "prompt": messages(item.prompt),
            "answers": [{"text": a.text, "model": a.model, "source": dict(a.source)} for a in item.answers],
            "rater": rating.rater, "simulated": rating.simulated,
            **({"settings": dict(snapshot.settings.get(rating.rater, {}))} if rating.simulated else {}),
            "action": rating.action, "judgement": rating.judgement.plain(), "guidelines": rating.guidelines,
            "revision": rating.revision, "supersedes": rating.supersedes, "created_at": rating.created_at,
        }  # fmt: skip


def votes(snapshot: Snapshot, who: str = "all") -> Iterator[dict[str, Any]]:
    """One row for every pair of answers of known models that a rater compared."""
    for rating in chosen(snapshot.ratings, who):
        item = snapshot.items[rating.item]
        for pair, better in rating.judgement.preferences().items():
            left, right = _as_shown(pair, rating)
            if item.answers[left].model and item.answers[right].model:
                yield _vote(item, rating, (left, right), better)


def prompts(snapshot: Snapshot) -> Iterator[dict[str, Any]]:
    """Every prompt once, in the order of the items."""
    for prompt in dict.fromkeys(item.prompt for item in snapshot.items.values()):
        yield {"prompt": messages(prompt)}


def messages(turns: tuple[Message, ...]) -> list[dict[str, str]]:
    """Turns as JSON values."""
    return [{"role": turn.role, "content": turn.content} for turn in turns]


def _as_shown(pair: tuple[int, int], rating: Rating) -> tuple[int, int]:
    shown = rating.judgement.shown
    i, j = pair
    return (j, i) if shown and shown.index(j) < shown.index(i) else (i, j)


def _vote(item: Item, rating: Rating, sides: tuple[int, int], better: int | str) -> dict[str, Any]:
    left, right = sides
    talks = [
        messages((*item.prompt, Message("assistant", item.answers[place].text))) for place in (left, right)
    ]
    winner = _WINNERS.get(better) or ("model_a" if better == left else "model_b")
    return {
        "model_a": item.answers[left].model, "model_b": item.answers[right].model, "winner": winner,
        "conversation_a": talks[0], "conversation_b": talks[1], "judge": rating.rater,
        "simulated": rating.simulated, "item": item.key, "rating": rating.key, "shown": bool(rating.judgement.shown),
        "created_at": rating.created_at,
    }  # fmt: skip
