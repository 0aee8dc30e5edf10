"""Predicted against measured peak memory: real runs of the real loop, each in a process of its own, on the CPU.

Measured is the peak of resident memory above what the process held when everything was imported, in a process that was
started as `lmcraft train` starts itself; predicted is what `lmcraft plan` says. Measurements are kept in a file and not
repeated, so the grid can be run in parts; they come in a random order, so a part is like the whole.

    python benchmarks/plan_grid.py [--only 12] [--cases NAME…] [--done FILE] [--write]
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np

from lmcraft.core.heap import without_cache

STEPS = 4
RESULT = "RESULT "
FLAT = {"layers": 3, "width": 256, "heads": 4, "vocab": 4096}
DEEP = {"layers": 6, "width": 256, "heads": 4, "vocab": 2048}
BOTH = {"layers": 2, "width": 256, "heads": 4, "vocab": 4096}
LSTM = {"layers": 2, "width": 256, "vocab": 4096}
LORA = [{"kind": "lora", "rank": 8}]
METHODS = {
    "full": [], "freeze": [{"kind": "freeze", "layers": 1}], "lora": LORA,
    "qlora": [{"kind": "quantize", "bits": 4}, *LORA], "bottleneck": [{"kind": "bottleneck"}],
}  # fmt: skip


def cases() -> dict[str, dict]:
    """Every run by its name."""
    grid = []
    for rows, width in ((4, 128), (8, 128), (16, 64), (4, 256), (2, 512), (32, 64)):
        grid.append(("decoder", FLAT, "full", {}, rows, width))
        grid.append(("decoder", FLAT, "lora", {}, rows, width))
    for method in METHODS:
        grid.append(("decoder", DEEP, method, {}, 8, 128))
        grid.append(("decoder", DEEP, method, {"checkpointing": True}, 8, 256))
        grid.append(("decoder", DEEP, method, {"micro_batch_size": 2}, 8, 128))
        grid.append(("decoder", FLAT, method, {"precision": "bf16"}, 8, 128))
        grid.append(("encoder", FLAT, method, {}, 8, 128))
        grid.append(("encdec", BOTH, method, {}, 16, 64))
    for rows, width in ((8, 64), (16, 32), (8, 128)):
        for more in ({}, {"micro_batch_size": 4}, {"optim": {"kind": "adamw"}}):
            grid.append(("rnn", LSTM, "full", more, rows, width))
    for more in ({"optim": {"kind": "adamw"}}, {"micro_batch_size": 4, "checkpointing": True}):
        for kind, model in (("decoder", FLAT), ("decoder", DEEP), ("encoder", FLAT), ("encdec", BOTH)):
            grid.append((kind, model, "full", more, 8, 128))
            grid.append((kind, model, "full", more | {"precision": "bf16"}, 8, 64))
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


def measure(case: dict) -> int:
    """One run in this process: bytes of its peak."""
    importlib.import_module("torch._dynamo")  # as the API does; torch imports it with the first optimizer

    from lmcraft.core.device import memory_now_bytes
    from lmcraft.core.heap import keep_freed_memory
    from lmcraft.train import loop

    stage, model, loader, settings = made(case)
    before = memory_now_bytes() or 0
    keep_freed_memory()
    built = model()
    with tempfile.TemporaryDirectory() as folder:
        for _ in loop.train(stage, built, loader, settings, Path(folder) / "checkpoints", lambda _: None):
            pass
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) * 1024 - before


def measured(name: str) -> int | None:
    """The same in a process of its own; None if it fails."""
    run = subprocess.run(
        [sys.executable, __file__, "--one", name], capture_output=True, text=True, check=False, timeout=600,
        env=os.environ | without_cache(),
    )  # fmt: skip
    line = next((line for line in run.stdout.splitlines() if line.startswith(RESULT)), None)
    if line is None:
        print(f"{name}: {run.stderr.strip().splitlines()[-1:]}", flush=True)
        return None
    return int(line.removeprefix(RESULT))


def predicted(case: dict) -> int:
    """Bytes that the plan of a run says."""
    from lmcraft.planning import of_run

    stage, model, loader, settings = made(case)
    return of_run(stage, model(), loader, settings).peak


def main() -> None:
    """Runs what is not done yet and shows the table."""
    from results import arguments

    parser = arguments(__doc__)
    parser.add_argument("--only", type=int)
    parser.add_argument("--cases", nargs="*", default=[])
    parser.add_argument("--done", type=Path, default=Path(tempfile.gettempdir()) / "plan-grid.jsonl")
    parser.add_argument("--write", action="store_true", help="append the table to RESULTS.md")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    every = cases()
    if options.one:
        print(f"{RESULT}{measure(every[options.one])}")
        return
    done = {}
    if options.done.exists():
        done = dict(json.loads(line) for line in options.done.read_text().splitlines())
    wanted = [name for name in every if not options.cases or any(part in name for part in options.cases)]
    random.Random(0).shuffle(wanted)
    for name in wanted[: options.only]:
        if name not in done and (size := measured(name)) is not None:
            done[name] = size
            with options.done.open("a") as file:
                file.write(json.dumps([name, size]) + "\n")
    rows = []
    for name in (name for name in every if name in done and name in wanted):
        rows.append((name, done[name], predicted(every[name])))
        print(f"{name}: {done[name] / 1e6:.0f} MB, predicted {rows[-1][2] / done[name] - 1:+.1%}", flush=True)
    table(rows, options.write)


def table(rows: list[tuple[str, int, int]], write: bool) -> None:
    """The comparison, on the screen or in RESULTS.md."""
    if not rows:
        return
    off = [plan / real - 1 for _, real, plan in rows]
    notes = (
        f"{len(rows)} runs: median error {statistics.median(map(abs, off)):.1%}, worst {max(map(abs, off)):.1%}, "
        f"lowest {min(off):+.1%}."
    )
    print(notes)
    if write:
        cells = [
            [name, round(real / 1e6), round(plan / 1e6), f"{error:+.1%}"]
            for (name, real, plan), error in zip(rows, off, strict=True)
        ]
        from results import append

        append("Planned memory", ["run", "measured, MB", "predicted, MB", "error"], cells, notes)


if __name__ == "__main__":
    main()
