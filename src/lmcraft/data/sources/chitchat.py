"""Convert chitchat-dataset (BYU PCC lab, MIT) to chat JSON Lines with ratings and prompt.

1. Whoever writes first is the user, the other one is the assistant; messages in a row of one person become one turn,
   joined with newlines. Spaces around a message are taken off, messages without text are passed over.
2. Left out and counted: conversations that only one person wrote in (nobody answered), that more than two wrote in, or
   that hold a mail address or a phone number.
3. `ratings` are numbers from 1 to 10 for witty, upbeat and interesting, or null; 5 for all three is the untouched
   slider. `prompt` is the question the pair was given, or null.
4. The order is that of the source, so the file is the same on every machine.

Proved by tests/unit/data/test_catalog.py.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from itertools import chain, groupby
from pathlib import Path

_MAIL = re.compile(r"[\w.+-]+@[\w-]+\.[A-Za-z]{2,}")
_PHONE = re.compile(r"(?<!\d)(?:\+?1[ .-]?)?\(?\d{3}\)?[ .-]\d{3}[ .-]?\d{4}(?!\d)")
_RATINGS = ("witty", "upbeat", "interesting")


def convert(folder: Path, target: Path) -> dict[str, int]:
    """Write the conversations of `folder`/dataset.json to `target`; returns what was counted."""
    source = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
    counts = Counter(conversations=len(source), dialogues=0)
    with target.open("w", encoding="utf-8", newline="\n") as file:
        for conversation in source.values():
            said = [
                message
                for message in chain.from_iterable(conversation["messages"])
                if message["text"].strip()
            ]
            reason = _unusable(said)
            if reason:
                counts[reason] += 1
                continue
            row = {
                "messages": _turns(said),
                "ratings": _rated(conversation.get("ratings")),
                "prompt": conversation.get("prompt") or None,
            }
            counts["dialogues"] += 1
            counts["turns"] += len(row["messages"])
            counts["rated"] += row["ratings"] is not None
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return dict(counts)


def _unusable(said: list[dict[str, str]]) -> str | None:
    speakers = len({message["sender"] for message in said})
    if speakers < 2:
        return "left out: one speaker only"
    if speakers > 2:
        return "left out: more than two speakers"
    if any(_MAIL.search(message["text"]) or _PHONE.search(message["text"]) for message in said):
        return "left out: mail address or phone number"
    return None


def _turns(said: list[dict[str, str]]) -> list[dict[str, str]]:
    first = said[0]["sender"]
    turns = []
    for sender, messages in groupby(said, key=lambda message: message["sender"]):
        role = "user" if sender == first else "assistant"
        turns.append({"role": role, "content": "\n".join(message["text"].strip() for message in messages)})
    return turns


def _rated(ratings: dict[str, int] | None) -> dict[str, int] | None:
    return {name: ratings[name] for name in _RATINGS} if ratings else None
