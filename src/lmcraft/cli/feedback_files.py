"""Writes the exports of `lmcraft feedback export`.

Proved by tests/cli/test_feedback.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core import config
from ..core.disk import write_rows
from ..core.errors import UserError
from ..core.find import suggestion

if TYPE_CHECKING:
    from ..feedback.judgement import Snapshot

SHAPES = ("preferences", "ratings", "votes", "prompts")


def weights(written: Sequence[str]) -> dict[str, Any]:
    """The weights of criteria, from name=number."""
    found: dict[str, Any] = {}
    for one in written:
        name, equals, number = one.partition("=")
        if not equals:
            raise UserError(
                f"{one!r} is no weight", where="option --weight", fix="for example --weight safety=2"
            )
        found[name] = config.scalar(number)
    return found


OPTIONS = {"criteria": "--weight", "weight": "--weight-by"}


def options(values: dict[str, Any]) -> config.Document:
    """Settings from the command line; a mistake in one names its option."""
    places = {(name,): f"option {OPTIONS.get(name, '--' + name.replace('_', '-'))}" for name in values}
    return config.Document("options", values, places)


def write(
    snapshot: Snapshot, shape: str, file: Path, chosen: dict[str, Any], drop_unreliable: bool, overwrite: bool
) -> dict[str, Any]:
    """Writes one export; what was written, and what was left out and why."""
    from ..feedback import agreement, export

    if shape not in SHAPES:
        raise UserError(f"nothing is exported to {shape!r}{suggestion(shape, list(SHAPES))}",
                        fix=f"say one of: {', '.join(SHAPES)}")  # fmt: skip
    if file.suffix != ".jsonl":
        raise UserError(
            "the file is written as JSON Lines", where=str(file), fix="give it a name with .jsonl"
        )
    result: dict[str, Any] = {"project": snapshot.project, "to": shape, "simulated": []}
    if shape == "preferences":
        return result | _preferences(snapshot, file, chosen, drop_unreliable, overwrite)
    if shape == "prompts":
        return result | {"files": {str(file): _rows(file, export.prompts(snapshot), overwrite)}}
    # Ratings are a copy of everything; votes are those of the raters that were asked for.
    used = snapshot.ratings if shape == "ratings" else agreement.chosen(snapshot.ratings, chosen["who"])
    made = export.ratings(snapshot) if shape == "ratings" else export.votes(snapshot, chosen["who"])
    result["simulated"] = sorted({rating.rater for rating in used if rating.simulated})
    return result | {"files": {str(file): _rows(file, made, overwrite)}}


def _preferences(
    snapshot: Snapshot, file: Path, chosen: dict[str, Any], drop_unreliable: bool, overwrite: bool
) -> dict[str, Any]:
    from ..feedback import preferences, reliability

    dropped = reliability.unreliable(snapshot, chosen["who"]) if drop_unreliable else []
    settings = chosen | {"exclude": [*chosen["exclude"], *dropped]}
    made = preferences.build(snapshot, config.validate(preferences.Config, options(settings)))
    files = {str(file): _rows(file, (one.row() for one in made.train), overwrite)}
    if chosen["held_out"]:
        beside = file.with_name(f"{file.stem}.held-out.jsonl")
        files[str(beside)] = _rows(beside, (one.row() for one in made.held_out), overwrite)
    keys = {key for one in [*made.train, *made.held_out] if one.simulated for key in one.ratings}
    used = {rating.rater for rating in snapshot.ratings if rating.simulated and rating.key in keys}
    return {
        "files": files,
        "left_out": dict(made.left_out),
        "dropped_raters": dropped,
        "simulated": sorted(used),
    }


def _rows(file: Path, rows: Iterable[dict[str, Any]], overwrite: bool) -> int:
    if file.exists() and not overwrite:
        raise UserError(
            "there is such a file already", where=str(file), fix="name another one, or add --overwrite"
        )
    return write_rows(file, rows)
