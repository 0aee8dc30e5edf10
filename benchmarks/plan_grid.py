"""Predicted against measured peak memory: real runs of the real loop, each in a process of its own, on the CPU.

Measured is the peak of resident memory above what the process held when everything was imported; predicted is what
`lmcraft plan` says. Runs that are done are kept in a file and not repeated, so the grid can be run in parts.

    python benchmarks/plan_grid.py [--only 12] [--cases NAME…] [--done FILE] [--write]
"""

from __future__ import annotations

import argparse
import importlib
import json
import re
import statistics
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np

STEPS = 4
WIDE = {"layers": 4, "width": 256, "heads": 4, "vocab": 4096}
DEEP = {"layers": 6, "width": 384, "heads": 6, "vocab": 8192}
BOTH = {"layers": 2, "width": 256, "heads": 4, "vocab": 4096}
LSTM = {"layers": 2, "width": 384, "vocab": 4096}
LORA = [{"kind": "lora", "rank": 8}]
METHODS = {
    "full": [], "freeze": [{"kind": "freeze", "layers": 1}], "lora": LORA,
    "qlora": [{"kind": "quantize", "bits": 4}, *LORA], "bottleneck": [{"kind": "bottleneck"}],
}  # fmt: skip


def cases() -> dict[str, dict]:
    """Every run by its name."""
    grid = []
    for rows, width in ((4, 256), (8, 128), (16, 256), (8, 512), (32, 64)):
        grid.append(("decoder", WIDE, "full", {}, rows, width))
        grid.append(("decoder", WIDE, "lora", {}, rows, width))
    for method in METHODS:
        grid.append(("decoder", DEEP, method, {}, 8, 256))
        grid.append(("decoder", DEEP, method, {"checkpointing": True}, 16, 256))
        grid.append(("decoder", DEEP, method, {"micro_batch_size": 2}, 8, 256))
        grid.append(("decoder", WIDE, method, {"precision": "bf16"}, 8, 256))
        grid.append(("encoder", DEEP, method, {}, 8, 256))
        grid.append(("encdec", BOTH, method, {}, 16, 96))
    for kind, model, rows, width in (("rnn", LSTM, 8, 128), ("rnn", LSTM, 16, 64), ("rnn", LSTM, 8, 256)):
        for more in ({}, {"micro_batch_size": 4}, {"optim": {"kind": "adamw"}}):
            grid.append((kind, model, "full", more, rows, width))
    for more in ({"optim": {"kind": "adamw"}}, {"micro_batch_size": 4, "checkpointing": True}):
        for kind, model in (("decoder", WIDE), ("decoder", DEEP), ("encoder", WIDE), ("encdec", BOTH)):
            grid.append((kind, model, "full", more, 8, 256))
            grid.append((kind, model, "full", more | {"precision": "bf16"}, 8, 128))
    found = {}
    for kind, model, method, more, rows, width in grid:
        changed = " ".join(f"{k}={v['kind'] if isinstance(v, dict) else v}" for k, v in more.items())
        name = f"{kind}-{model['layers']}x{model['width']} {method} {rows}x{width} {changed}".strip()
        found[name] = {
            "kind": kind, "model": model, "method": method, "train": more, "rows": rows, "width": width
        }  # fmt: skip
    return found


def made(case: dict):
    """Stage, model, loader and settings of one run."""
    import torch

    from lmcraft.adapt import entries
    from lmcraft.core import find
    from lmcraft.data import tokens
    from lmcraft.data.loader import Loader
    from lmcraft.data.records import Where
    from lmcraft.models import model as models
    from lmcraft.train import loop

    torch.manual_seed(0)
    stage_name = {"encoder": "tag", "encdec": "translate"}.get(case["kind"], "pretrain")
    stage_module = find.module("stages", stage_name)
    stage = stage_module.build(stage_module.Config())
    vocab, width, rows = case["model"]["vocab"], case["width"], case["rows"]
    module = find.module("models", case["kind"])
    config = module.Config(context=width, **case["model"])
    draw = np.random.default_rng(0)
    labelled = case["kind"] == "encoder"

    def documents():
        for number in range(2 * rows):
            ids = draw.integers(5, vocab, width + (not labelled)).tolist()
            source = draw.integers(5, vocab, width).tolist() if case["kind"] == "encdec" else None
            yield tokens.Document(ids, None, Where("random", number), ids if labelled else None, source)

    shard = tokens.write(Path(tempfile.mkdtemp()) / "shard", documents(), vocab, {"key": "random"}, Counter())
    loader = Loader(shard, width, rows, seed=0, pack=stage_module.PACK)
    settings = loop.Config(
        **({"steps": STEPS, "batch_size": rows, "lr": 1e-4, "precision": "fp32"} | case["train"])
    )

    def model():
        built = models.build(config)
        adapters = [find.module("adapt", entry["kind"]).Config(**entry) for entry in METHODS[case["method"]]]
        if adapters:
            for parameter in built.parameters():
                parameter.requires_grad_(False)
            built = entries.apply(built, adapters, entries.Base("", ""), None)
        return built

    return stage, model, loader, settings


def measure(case: dict) -> dict[str, float]:
    """One run in this process: bytes predicted and measured."""
    importlib.import_module("torch._dynamo")  # torch imports it with the first optimizer

    from lmcraft.core.device import keep_freed_memory, memory_now_bytes
    from lmcraft.planning import of_run
    from lmcraft.train import loop

    keep_freed_memory()
    stage, model, loader, settings = made(case)
    before = memory_now_bytes() or 0
    built = model()
    with tempfile.TemporaryDirectory() as folder:
        for _ in loop.train(stage, built, loader, settings, Path(folder) / "checkpoints", lambda _: None):
            pass
    status = Path("/proc/self/status").read_text()
    peak = int(re.search(r"VmHWM:\s+(\d+)", status)[1]) * 1024
    found = of_run(stage, built, loader, settings)
    return {"measured": peak - before, "predicted": found.peak, "parts": found.parts}


def main() -> None:
    """Runs what is not done yet and shows the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", type=int)
    parser.add_argument("--cases", nargs="*", default=[])
    parser.add_argument("--done", type=Path, default=Path(tempfile.gettempdir()) / "plan-grid.jsonl")
    parser.add_argument("--write", action="store_true", help="append the table to RESULTS.md")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    every = cases()
    if options.one:
        print("RESULT " + json.dumps(measure(every[options.one])))
        return
    done = {}
    if options.done.exists():
        done = {row["name"]: row for row in map(json.loads, options.done.read_text().splitlines())}
    wanted = [name for name in every if not options.cases or any(part in name for part in options.cases)]
    for name in wanted[:: max(1, len(wanted) // options.only) if options.only else 1]:
        if name in done:
            continue
        run = subprocess.run(
            [sys.executable, __file__, "--one", name],
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )
        line = next((line for line in run.stdout.splitlines() if line.startswith("RESULT ")), None)
        if line is None:
            print(f"{name}: {run.stderr.strip().splitlines()[-1:]}", flush=True)
            continue
        done[name] = {"name": name, **json.loads(line.removeprefix("RESULT "))}
        with options.done.open("a") as file:
            file.write(json.dumps(done[name]) + "\n")
        row = done[name]
        print(
            f"{name}: {row['measured'] / 1e6:.0f} MB, predicted {row['predicted'] / row['measured'] - 1:+.1%}",
            flush=True,
        )
    table([done[name] for name in wanted if name in done], options.write)


def table(rows: list[dict], write: bool) -> None:
    """The comparison, on the screen or in RESULTS.md."""
    if not rows:
        return
    off = [row["predicted"] / row["measured"] - 1 for row in rows]
    notes = (
        f"{len(rows)} runs: median error {statistics.median(map(abs, off)):.1%}, worst {max(map(abs, off)):.1%}, "
        f"lowest {min(off):+.1%}."
    )
    print(notes)
    if write:
        from results import append

        cells = [
            [row["name"], round(row["measured"] / 1e6), round(row["predicted"] / 1e6), f"{error:+.1%}"]
            for row, error in zip(rows, off, strict=True)
        ]
        append("Planned memory", ["run", "measured, MB", "predicted, MB", "error"], cells, notes)


if __name__ == "__main__":
    main()
