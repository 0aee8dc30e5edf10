"""Tokens per second of a training step: lmcraft's loop against `transformers.Trainer` and a plain loop.

Same shapes, same number of tokens, random data, AdamW, clipping at 1; the peers run a Llama of `transformers`. All
variants take turns, several rounds, and the medians of their steps are compared. Trainer needs `accelerate`.

    python benchmarks/train_step.py [--rounds 4] [--steps 4]
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
import transformers
from results import append, arguments

from lmcraft.core.heap import keep_freed_memory
from lmcraft.data import tokens
from lmcraft.data.loader import Loader
from lmcraft.data.records import Where
from lmcraft.models import decoder
from lmcraft.models import model as models
from lmcraft.stages import pretrain
from lmcraft.train import loop, optim, precision

SHAPES = {
    "a": {"layers": 4, "width": 256, "heads": 4, "mlp": 688, "vocab": 4096, "context": 256, "batch": 16},
    "b": {"layers": 6, "width": 384, "heads": 6, "mlp": 1024, "vocab": 8192, "context": 256, "batch": 8},
}


def ours(shape: dict, numbers: str, kind: str) -> Iterator[float]:
    """Seconds of each step of lmcraft's own loop."""
    torch.manual_seed(0)
    config = decoder.Config(
        vocab=shape["vocab"], layers=shape["layers"], width=shape["width"], heads=shape["heads"],
        mlp_width=shape["mlp"], context=shape["context"],
    )  # fmt: skip
    folder = Path(tempfile.mkdtemp())
    draw = np.random.default_rng(0)
    documents = (
        tokens.Document(
            draw.integers(0, shape["vocab"], shape["context"] + 1).tolist(), None, Where("random", i)
        )
        for i in range(4 * shape["batch"])
    )
    shard = tokens.write(folder / "shard", documents, shape["vocab"], {"key": "random"}, Counter())
    loader = Loader(shard, shape["context"], shape["batch"], seed=0)
    settings = loop.Config(
        steps=10_000, batch_size=shape["batch"], lr=1e-3, precision=numbers, save_every=10_000,
        optim=optim.Config(kind=kind),
    )  # fmt: skip
    stage = pretrain.build(pretrain.Config())
    for step in loop.train(stage, models.build(config), loader, settings, folder / "checkpoints", print):
        yield step.seconds


def llama(shape: dict) -> transformers.LlamaForCausalLM:
    """The peer: the same shape in `transformers`."""
    return transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=shape["vocab"], hidden_size=shape["width"], intermediate_size=shape["mlp"],
            num_hidden_layers=shape["layers"], num_attention_heads=shape["heads"], tie_word_embeddings=True,
            max_position_embeddings=shape["context"], use_cache=False,
        )
    )  # fmt: skip


def plain(shape: dict, numbers: str) -> Iterator[float]:
    """Seconds of each step of the loop that everybody writes first."""
    torch.manual_seed(0)
    model = llama(shape).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    while True:
        started = time.perf_counter()
        ids = torch.randint(0, shape["vocab"], (shape["batch"], shape["context"]))
        with precision.computing(numbers, torch.device("cpu")):
            loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        yield time.perf_counter() - started


class _Random(torch.utils.data.Dataset):
    def __init__(self, shape: dict) -> None:
        self.ids = torch.randint(0, shape["vocab"], (4096, shape["context"]))

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, i: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self.ids[i], "labels": self.ids[i]}


class _Clock(transformers.TrainerCallback):
    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_step_begin(self, *_: object, **__: object) -> None:
        self.started = time.perf_counter()

    def on_step_end(self, *_: object, **__: object) -> None:
        self.seconds.append(time.perf_counter() - self.started)


def trainer(shape: dict, numbers: str, steps: int) -> list[float]:
    """Seconds of each step under `transformers.Trainer`."""
    torch.manual_seed(0)
    clock = _Clock()
    arguments = transformers.TrainingArguments(
        output_dir=tempfile.mkdtemp(), max_steps=steps, per_device_train_batch_size=shape["batch"], report_to=[],
        save_strategy="no", logging_strategy="no", bf16=numbers == "bf16", use_cpu=True, disable_tqdm=True,
    )  # fmt: skip
    transformers.Trainer(llama(shape), arguments, train_dataset=_Random(shape), callbacks=[clock]).train()
    return clock.seconds


def take(steps: Iterator[float], number: int) -> list[float]:
    """The next few."""
    return [next(steps) for _ in range(number)]


def main() -> None:
    """Measures both shapes and writes the table."""
    parser = arguments(__doc__)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--steps", type=int, default=4)
    options = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(torch.get_num_threads())
    chosen = precision.choose("auto", torch.device("cpu"))
    rows = []
    for name, shape in SHAPES.items():
        steppers = {
            "lmcraft auto": ours(shape, chosen, "adamw"), "lmcraft fp32": ours(shape, "fp32", "adamw"),
            "lmcraft auto, Muon": ours(shape, chosen, "muon"),
            "plain loop fp32": plain(shape, "fp32"), "plain loop bf16": plain(shape, "bf16"),
        }  # fmt: skip
        variants: dict[str, Callable[[], list[float]]] = {
            label: (lambda steps=steps: take(steps, options.steps)) for label, steps in steppers.items()
        }
        variants |= {
            f"Trainer {n}": (lambda n=n, shape=shape: trainer(shape, n, options.steps + 1)[1:])
            for n in ("fp32", "bf16")
        }
        for measure in variants.values():  # warm up
            measure()
        times: dict[str, list[float]] = {label: [] for label in variants}
        for _ in range(options.rounds):
            for label, measure in variants.items():
                times[label] += measure()
        size = shape["batch"] * shape["context"]
        reference = statistics.median(times["Trainer fp32"])
        for label, seconds in times.items():
            middle = statistics.median(seconds)
            spread = (max(seconds) - min(seconds)) / middle
            rows.append([name, label, round(size / middle), f"{reference / middle:.2f}", f"{spread:.2f}"])
    append(
        "Training step", ["shape", "variant", "tokens/s", "× Trainer fp32 (its default)", "spread"], rows,
        f"`auto` is {chosen} on this machine. Spread = (max − min) / median. Shapes: {SHAPES}",
    )  # fmt: skip


if __name__ == "__main__":
    main()
