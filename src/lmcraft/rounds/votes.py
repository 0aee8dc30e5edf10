"""The votes of a round: answers are queued, and people or a program say which are better.

Everything can be done again: the same answers are known to the store, and a program judges only what is open.

Proved by tests/cli/test_rounds.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.disk import read_json, write_json
from ..data.records import Prompt
from ..feedback.guidelines import Guidelines
from ..feedback.rules import rule
from ..feedback.sample import draw
from ..feedback.simulated import Simulated, rate_open
from ..feedback.store import Project, Store
from ..generate.sampling import Sampling
from .settings import Config


@dataclass(frozen=True)
class Waiting:
    """Items that nobody has judged yet."""

    project: str
    items: int

    def plain(self) -> dict[str, Any]:
        """As JSON values."""
        return {"project": self.project, "items": self.items}


def project(store: Store, name: str) -> Project:
    """The project of this name, made if it is not there."""
    return store.project(name) if name in store.projects() else store.create(name, Guidelines())


def queue(
    asked: Project, file: Path, models: Sequence[str], prompts: Sequence[Prompt], config: Config,
    source: Mapping[str, Any],
) -> list[str]:  # fmt: skip
    """Lets the models answer and queues what they say; gives the items' keys, which `file` keeps."""
    if not file.exists():
        sampling = Sampling(
            temperature=config.temperature, max_new_tokens=config.max_new_tokens, seed=config.seed
        )
        drawn = draw(models, prompts, 2, sampling)
        asked.add(drawn.items, source)
        keys = [item.key or item.fingerprint() for item in drawn.items]
        write_json(file, {"models": [*models], "items": keys, "alike": drawn.alike})
    return read_json(file)["items"]


def rated(store: Store, asked: Project, keys: Sequence[str], config: Config) -> Waiting | None:
    """Lets a program judge, or says how many items still wait for people."""
    if config.simulated:
        made, name = rule(config.rater), f"simulated-{config.rater}"
        settings = {"rule": config.rater, **config.manner.model_dump()}
        rater = store.rater(name, simulated=True, settings=settings)
        rate_open(asked, rater, Simulated(name, made.reward, config.manner, made.unit))
        return None
    ratings = [rating for rating in asked.snapshot().ratings if not rating.simulated]
    counts = Counter(rating.item for rating in ratings if rating.action == "rate")
    passed = {rating.item for rating in ratings if rating.action in ("skip", "flag")}
    open_ = [key for key in keys if counts[key] < config.enough and key not in passed]
    return Waiting(asked.name, len(open_)) if open_ else None
