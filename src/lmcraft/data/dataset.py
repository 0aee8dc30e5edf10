"""From the data section of a config to the two sets of records: what is trained on and what is held out.

    read → records → exact duplicates out → (near duplicates out) → held-out split

Proved by tests/unit/data/test_dataset.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field, model_validator

from ..core.config import Strict
from . import clean, store
from .load import load
from .records import Record, fingerprint
from .split import split


class Config(Strict):
    """Where the data is and how it is prepared. A single path may be given instead."""

    files: tuple[str, ...] = Field(min_length=1, description="files, or names that `lmcraft pull` fetched")
    valid: tuple[str, ...] = Field((), description="held-out files; default: a share of `files`")
    holdout: float = Field(0.05, ge=0, lt=1, description="share of the records that is held out")
    kind: str | None = Field(None, description="record type or shape; default: recognised")
    columns: dict[str, str] = Field({}, description="field of a record → its column in the files")
    context: int | None = Field(None, gt=1, description="tokens per row; default: the model's context")
    pack: bool = Field(True, description="several documents in one row, kept apart")
    deduplicate: Literal["none", "exact", "near"] = Field("exact", description="near needs the extra `data`")
    limit: int | None = Field(None, gt=0, description="use only the first records")

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        if isinstance(value, str):
            value = {"files": [value]}
        elif isinstance(value, list):
            value = {"files": value}
        if isinstance(value, dict):
            value = {
                k: [v] if k in ("files", "valid") and isinstance(v, str) else v for k, v in value.items()
            }
        return value


@dataclass(frozen=True)
class Dataset:
    """Records to train on, records held out, and what was counted on the way."""

    train: list[Record]
    held: list[Record]
    report: dict[str, Any]


def prepare(config: Config, seed: int) -> Dataset:
    """Reads, cleans and splits.

    Raises:
        UserError: unusable rows (the first ones are named), or nothing left to train on.
    """
    loaded = load(config.files, config.kind, config.columns).require()
    records = loaded.records[: config.limit]
    report: dict[str, Any] = {"files": loaded.files, "shape": loaded.shape}
    for name in config.files:
        if store.has(
            name
        ):  # what was counted when it was fetched, so that nothing left out then is forgotten
            report |= {f"{name}: {what}": count for what, count in store.get(name).counts.items()}
    report["records"] = len(records)
    if config.deduplicate != "none":
        records, removed = (clean.near if config.deduplicate == "near" else clean.exact)(records)
        report["duplicates removed"] = len(removed)
    if config.valid:
        held = load(config.valid, config.kind, config.columns).require().records
        known = {fingerprint(record) for record in held}
        train = [record for record in records if fingerprint(record) not in known]
        report["left out, also in the held-out files"] = len(records) - len(train)
    else:
        train, held = split(records, config.holdout, seed)
    report |= {"trained on": len(train), "held out": len(held)}
    return Dataset(train, held, report)
