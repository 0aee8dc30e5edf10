"""Classes of texts: accuracy, F1 by every name it has, ROC AUC from the probabilities, and who is taken for whom.

    F1 of a class = 2·precision·recall / (precision + recall), 0 where nothing is found;
    macro: mean over classes; weighted: mean by how often a class occurs; micro: over all decisions (here the accuracy)

1. Computed by scikit-learn (extra `eval`), from which people take these numbers.
2. With two classes, precision, recall and F1 are those of `positive`, by default the second one in the model's order
   (1 of 0 and 1); it is named in the settings.
3. ROC AUC is the chance that a text of the class gets a higher probability than one of the others; with more than two
   classes it is the mean over the classes (one against the rest). Where the data has only one class, or lacks one,
   it does not exist; the settings then say so, and the number is left out rather than made up.
4. A record of a class that the model does not know counts as wrong.

Legend: N texts, X classes.
Proved by tests/unit/evals/test_labels.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from pydantic import Field
from sklearn.metrics import (
    accuracy_score,
    confusion_matrix,
    f1_score,
    precision_recall_fscore_support,
    roc_auc_score,
)

from ..core.config import Strict
from ..core.errors import UserError
from ..data.records import Labeled
from ..generate.language_model import LanguageModel
from .evaluation import Result


class Config(Strict):
    """Which class counts as the positive one."""

    kind: Literal["labels"] = "labels"
    positive: str | None = Field(
        None, description="of two classes, the one that is looked for; default: the second"
    )


def run(lm: LanguageModel, records: Sequence[Labeled], config: Config) -> Result:
    """Classifies every record; one sample a record."""
    for record in records:
        if not isinstance(record, Labeled):
            raise UserError("this evaluation needs texts with a class", where=str(record.where),
                            fix="give rows with `text` and `label`")  # fmt: skip
    if not records:
        raise UserError("there is nothing to classify")
    found = lm.classify([record.text for record in records])
    known = list(lm.config.labels)
    gold, said = [record.label for record in records], [answer.label for answer in found]
    scores_NX = np.array([[answer.probabilities[label] for label in known] for answer in found])
    unknown = sorted(set(gold) - set(known))
    settings: dict[str, Any] = {"records": len(records), "classes": len(known)}
    if unknown:
        settings["classes that the model does not know"] = ", ".join(unknown)
    metrics = _f1(gold, said, known + unknown)
    if len(known) == 2:
        positive = known[1] if config.positive is None else config.positive
        if positive not in known:
            raise UserError(f"the model has no class {positive!r}", where=f"positive={positive}",
                            fix=f"name one of: {', '.join(known)}")  # fmt: skip
        settings["positive"] = positive
        metrics |= _binary(gold, said, positive)
    auc, note = roc_auc(gold, scores_NX, known)
    if auc is not None:
        metrics["roc_auc"] = auc
    if note:
        settings["roc_auc"] = note
    samples = [
        {"where": str(record.where), "text": record.text, "label": record.label, "said": answer.label,
         "probability": answer.probability}
        for record, answer in zip(records, found, strict=True)
    ]  # fmt: skip
    return Result("labels", metrics, settings, samples, _tables(gold, said, known + unknown))


def _f1(gold: list[str], said: list[str], labels: list[str]) -> dict[str, float]:
    metrics = {"accuracy": float(accuracy_score(gold, said))}
    present = [label for label in labels if label in {*gold, *said}]
    for average in ("macro", "weighted", "micro"):
        value = f1_score(gold, said, labels=present, average=average, zero_division=0)
        metrics[f"f1_{average}"] = float(value)
    return metrics


def _binary(gold: list[str], said: list[str], positive: str) -> dict[str, float]:
    values = precision_recall_fscore_support(
        gold, said, labels=[positive], average="micro", zero_division=0
    )  # of one class: its own numbers
    return {"precision": float(values[0]), "recall": float(values[1]), "f1": float(values[2])}


def roc_auc(gold: Sequence[str], scores_NX: np.ndarray, labels: Sequence[str]) -> tuple[float | None, str]:
    """Mean area over the classes for which it exists (two classes: of the second), and a note on those it lacks for."""
    truth = np.array(gold)
    asked = [1] if len(labels) == 2 else range(len(labels))
    areas, without = [], []
    for place in asked:
        is_it = truth == labels[place]
        if is_it.all() or not is_it.any():
            without.append(labels[place])
        else:
            areas.append(float(roc_auc_score(is_it, scores_NX[:, place])))
    if not areas:
        return None, f"undefined: every record is of class {gold[0]!r}" if len({*gold}) == 1 else "undefined"
    note = f"mean over the classes that occur; without {', '.join(without)}" if without else ""
    return float(np.mean(areas)), note


def _tables(gold: list[str], said: list[str], labels: list[str]) -> dict[str, Any]:
    counts = confusion_matrix(gold, said, labels=labels).tolist()
    parts = precision_recall_fscore_support(gold, said, labels=labels, zero_division=0)
    each = [
        [label, *(float(value) for value in values[:3]), int(values[3])]
        for label, *values in zip(labels, *parts, strict=True)
    ]
    return {
        "classes": {"columns": ["class", "precision", "recall", "f1", "records"], "rows": each},
        "confusion": {
            "columns": ["is \\ said", *labels],
            "rows": [[label, *row] for label, row in zip(labels, counts, strict=True)],
        },
    }
