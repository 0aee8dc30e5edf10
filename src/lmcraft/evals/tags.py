"""Tags of words: precision, recall and F1 of whole entities by CoNLL's rule, and the share of words tagged right.

    precision = right / said,  recall = right / there,  F1 = 2·precision·recall / (precision + recall)

1. An entity is right if its first word, its last word and its type are (Tjong Kim Sang and De Meulder 2003); what an
   entity is, `lmcraft.text.entities` says. Numbers are over all sentences together (micro).
2. Where neither data nor model has an entity (parts of speech, say), only the accuracy exists.

Proved by tests/unit/evals/test_tags.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

from ..core.config import Strict
from ..core.errors import UserError
from ..data.records import Tagged
from ..generate.language_model import LanguageModel
from ..text.entities import entities
from .evaluation import Result


class Config(Strict):
    """Nothing to set."""

    kind: Literal["tags"] = "tags"


def run(lm: LanguageModel, records: Sequence[Tagged], config: Config) -> Result:
    """Tags every record; one sample a record."""
    for record in records:
        if not isinstance(record, Tagged):
            raise UserError("this evaluation needs words with tags", where=str(record.where),
                            fix="give rows with `tokens` and `tags`")  # fmt: skip
    words = sum(len(record.tags) for record in records)
    if not words:
        raise UserError("there is nothing to tag")
    found = lm.tag([record.tokens for record in records])
    there, said, right = Counter(), Counter(), Counter()
    hits = 0
    samples = []
    for record, answer in zip(records, found, strict=True):
        gold, guess = set(entities(record.tags)), set(answer.entities)
        there.update(entity.type for entity in gold)
        said.update(entity.type for entity in guess)
        right.update(entity.type for entity in gold & guess)
        hits += sum(a == b for a, b in zip(record.tags, answer.tags, strict=True))
        samples.append({
            "where": str(record.where), "tokens": list(record.tokens), "tags": list(record.tags), "said": answer.tags,
        })  # fmt: skip
    metrics = {"accuracy": hits / words}
    settings: dict[str, Any] = {"records": len(records), "words": words, "entities": there.total()}
    if there or said:
        metrics |= scores(there.total(), said.total(), right.total())
    unknown = sorted({tag for record in records for tag in record.tags} - {*lm.config.labels})
    if unknown:
        settings["tags that the model does not know"] = ", ".join(unknown)
    rows = []
    for kind in sorted({*there, *said}):
        values = scores(there[kind], said[kind], right[kind])
        rows.append([kind, *values.values(), there[kind]])
    columns = ["type", "precision", "recall", "f1", "entities"]
    tables = {"entities": {"columns": columns, "rows": rows}} if rows else {}
    return Result("tags", metrics, settings, samples, tables)


def scores(there: int, said: int, right: int) -> dict[str, float]:
    """Precision, recall and F1 of counts; 0 where nothing is said or there."""
    precision, recall = right / max(1, said), right / max(1, there)
    f1 = 2 * right / max(1, there + said)
    return {"precision": precision, "recall": recall, "f1": f1}
