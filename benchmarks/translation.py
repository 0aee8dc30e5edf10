"""Three families of the chapter translate the same sentences: LSTM, LSTM with additive attention, Transformer.

Equal parameters, equal data, half an hour each on one core, through `lmcraft train translate`. The training data
are all pairs once and, as in Bahdanau et al. 2015, pairs joined to texts of up to 60 words. Measured are sacreBLEU on
the held-out pairs, greedy and with beam search, and BLEU by the length of held-out pairs joined in the same way.

    python benchmarks/translation.py train.jsonl valid.jsonl --source en --target de --out runs/translation

Runs that are finished in OUT are only measured; `--only NAME` trains one family and measures nothing, so that several
machines can share the work. The files are JSON Lines with a column for each language.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import sacrebleu
from results import append, arguments

from lmcraft.core.log import Progress
from lmcraft.core.run import Run
from lmcraft.generate.beam import Beams
from lmcraft.generate.language_model import LanguageModel
from lmcraft.generate.sampling import Sampling

JOINED_ROWS, LONGEST_WORDS = 12000, 60
BUCKETS = ((1, 15), (16, 30), (31, 45), (46, 60))
BUCKET_ROWS = 200
# Widths with which the three have the same number of parameters, within 1 %; passes over the data that take each of
# them about thirty minutes on one core; rates and optimizers by the loss after 200 to 300 steps: LSTM at 1, 2, 4 and
# 5e-3, the Transformer with AdamW at 1 and 2.5e-3 and with Muon at 2e-3.
MODELS = {
    "LSTM": [
        "model.kind=seq2seq", "model.attention=none", "model.layers=2", "model.width=288",
        "train.epochs=4", "train.lr=4e-3", "train.optim.kind=adamw", "train.optim.weight_decay=0.01",
    ],
    "LSTM + additive attention": [
        "model.kind=seq2seq", "model.attention=additive", "model.layers=2", "model.width=270",
        "train.epochs=3", "train.lr=3e-3", "train.optim.kind=adamw", "train.optim.weight_decay=0.01",
    ],
    "Transformer": [
        "model.kind=encdec", "model.layers=3", "model.width=256", "model.heads=4",
        "train.epochs=2.3", "train.lr=2e-3",
    ],
}  # fmt: skip
SETTINGS = [
    "tokenizer.vocab=6000", "model.context=160", "model.dropout=0.1", "train.batch_size=48",
    "train.precision=bf16", "train.eval_every=500", "train.eval_rows=256", "train.save_every=1000",
]  # fmt: skip


def pairs(file: Path, source: str, target: str) -> list[dict[str, str]]:
    """The rows of a file as source and target."""
    rows = map(json.loads, file.read_text(encoding="utf-8").splitlines())
    return [{"source": row[source], "target": row[target]} for row in rows]


def joined(rows: list[dict], draw: random.Random, fewest: int, most: int) -> dict[str, str]:
    """Several pairs as one text and its translation."""
    part = draw.sample(rows, draw.randint(fewest, most))
    return {side: " ".join(row[side].strip() for row in part) for side in ("source", "target")}


def with_joined(rows: list[dict]) -> list[dict]:
    """All rows, and some joined to at most LONGEST_WORDS words, shuffled."""
    draw, longer = random.Random(0), []
    while len(longer) < JOINED_ROWS:
        row = joined(rows, draw, 2, 5)
        if len(row["source"].split()) <= LONGEST_WORDS:
            longer.append(row)
    mixed = rows + longer
    draw.shuffle(mixed)
    return mixed


def by_length(rows: list[dict]) -> dict[tuple[int, int], list[dict]]:
    """Held-out rows, joined where needed, by words of the source."""
    draw = random.Random(1)
    found: dict[tuple[int, int], list[dict]] = {bucket: [] for bucket in BUCKETS}
    while min(map(len, found.values())) < BUCKET_ROWS:
        row = joined(rows, draw, 1, 5)
        words = len(row["source"].split())
        for low, high in BUCKETS:
            if low <= words <= high and len(found[low, high]) < BUCKET_ROWS:
                found[low, high].append(row)
    return found


def write(file: Path, rows: list[dict]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return file


def bleu(lm: LanguageModel, rows: list[dict], beams: int) -> float:
    """sacreBLEU of the model's translations."""
    ids = [lm.ids(row["source"]) for row in rows]
    said = []
    with Progress(len(ids), "texts", "translating") as progress:
        for start in range(0, len(ids), 64):
            part = ids[start : start + 64]
            if beams == 1:
                said += lm.complete(part, Sampling(temperature=0.0, max_new_tokens=160))
            else:
                said += lm.search(part, Beams(beams=beams, max_new_tokens=160))
            progress.update(advance=len(part))
    return sacrebleu.corpus_bleu([s.text for s in said], [[row["target"] for row in rows]]).score


def trained(out: Path, name: str, data: Path, held: Path) -> Path:
    """The family's run in `out`, trained now if it is not finished."""
    place = out / name.replace(" + ", "-").replace(" ", "-").lower()
    if not (Run.exists(place) and Run.open(place).state["status"] == "done"):
        command = [
            sys.executable,
            "-m",
            "lmcraft",
            "train",
            "translate",
            f"data={data}",
            f"data.valid={held}",
        ]
        subprocess.run([*command, *SETTINGS, *MODELS[name], "--out", str(place)], check=True)
    return place


def main() -> None:
    options = arguments(__doc__)
    options.add_argument("train", type=Path)
    options.add_argument("valid", type=Path)
    options.add_argument("--source", default="source")
    options.add_argument("--target", default="target")
    options.add_argument("--only", choices=MODELS)
    options.add_argument("--out", type=Path, default=Path("runs/translation"))
    asked = options.parse_args()
    valid = pairs(asked.valid, asked.source, asked.target)
    data = write(asked.out / "train.jsonl", with_joined(pairs(asked.train, asked.source, asked.target)))
    held = write(asked.out / "valid.jsonl", valid)
    if asked.only:
        trained(asked.out, asked.only, data, held)
        return
    buckets = by_length(valid)
    rows, lengths = [], []
    for name in MODELS:
        place = trained(asked.out, name, data, held)
        state, lm = Run.open(place).state, LanguageModel.load(place)
        rows.append([
            name, f"{state['parameters']:,}", f"{state['step']:,}", round(state["seconds"] / 60, 1),
            *(f"{bleu(lm, valid, beams):.1f}" for beams in (1, 4)),
        ])  # fmt: skip
        lengths.append([name, *(f"{bleu(lm, part, 1):.1f}" for part in buckets.values())])
    version = f"sacreBLEU {sacrebleu.__version__}, 13a, exp smoothing, {len(valid):,} held-out pairs."
    headings = ["model", "parameters", "steps", "minutes of training", "BLEU, greedy", "BLEU, beam 4"]
    append(f"Translation {asked.source} → {asked.target}", headings, rows, version)
    headings = ["model", *(f"{low}–{high} words" for low, high in BUCKETS)]
    append(
        "Translation by length", headings, lengths,
        f"Greedy; held-out pairs joined to the length, {BUCKET_ROWS} texts a bucket; {version}",
    )  # fmt: skip


if __name__ == "__main__":
    main()
