"""A run as training leaves it, made by hand, and a parser that sees a page as a browser does."""

from __future__ import annotations

from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from lmcraft.core.run import Run

CONFIG = """stage:
  kind: {stage}
base: {base}
model:
  kind: decoder
data:
  files:
  - talk.jsonl
  context: 64
train:
  steps: {steps}
  precision: fp32
sample:
  max_new_tokens: 20
  temperature: 0.8
"""
VOID = {"meta", "link", "br", "wbr", "img", "input", "hr", "path", "use"}
MakeRun = Callable[..., Run]


class Seen(HTMLParser):
    """Elements and attributes of a page, its text by element, and whether every element is closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []
        self.wrong: list[str] = []
        self.feed(page)
        self.close()
        self.wrong += [f"<{tag}> is never closed" for tag in self._open]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID:
            return
        if not self._open or self._open[-1] != tag:
            self.wrong.append(f"</{tag}> closes {self._open[-1:]}")
        else:
            self._open.pop()

    def handle_data(self, data: str) -> None:
        if "style" not in self._open:
            self.text += data

    def attributes(self, name: str) -> list[str]:
        return [attrs[name] or "" for _, attrs in self.elements if name in attrs]

    def count(self, tag: str) -> int:
        return sum(found == tag for found, _ in self.elements)


@pytest.fixture
def parsed() -> Callable[[str], Seen]:
    return Seen


@pytest.fixture
def seen() -> Callable[[Path], Seen]:
    return lambda file: Seen(file.read_text(encoding="utf-8"))


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """A finished run of `steps` steps; the arguments replace parts of it, None leaves a part out."""

    def make(name: str = "run", stage: str = "pretrain", steps: int = 60, **parts: Any) -> Run:
        parents, command = parts.get("parents", []), parts.get("command", ["/bin/lmcraft", "train", stage])
        base = str(parents[0]) if parents else "null"
        config = parts.get("config", CONFIG.format(stage=stage, base=base, steps=steps))
        run = Run.create(tmp_path / name, config, parents, command=command)
        for row in parts.get("metrics", map(metric, range(1, steps + 1))):
            run.append_metrics(row)
        for row in parts.get("samples", SAMPLES):
            run.append_sample({**row, "step": steps if row["step"] else 0})
        if parts.get("data", DATA) is not None:
            run.write_json("data.json", parts.get("data", DATA))
        run.write_text("model/model.safetensors", "weights")
        facts = {"seconds": 75.0, "peak_memory_bytes": 1.5e9, "parameters": 1_234_567}
        run.set_status(parts.get("status", "done"), step=steps, **facts)
        return run

    return make


def metric(step: int) -> dict[str, Any]:
    row = {
        "step": step, "loss": 2 + 3 / step, "learning_rate": 1e-3, "grad_norm": 1.0, "targets": 1000,
        "tokens_per_second": 5000.0, "memory_bytes": 1e9, "epoch": step / 10,
    }  # fmt: skip
    return {**row, "eval_loss": 2.5 + 1 / step} if step % 20 == 0 else row


SAMPLES: list[dict[str, Any]] = [
    {"step": 0, "prompt": "Hello", "text": "zq zq", "finish_reason": "length"},
    {"step": 1, "prompt": "Hello", "text": "Hi there!", "finish_reason": "stop"},
]
DATA: dict[str, Any] = {
    "files": {"talk.jsonl": {"shape": "messages", "records": 100, "problems": 0}}, "shape": "messages",
    "records": 100, "duplicates removed": 4, "trained on": 90, "held out": 6, "truncated": 3,
    "rows: documents": 91, "rows: rows": 40, "rows: tokens": 2000, "rows: targets": 900, "rows: padding": 560,
    "rows: cut_documents": 1, "rows: rows_without_target": 2, "shard": "abcdef0123456789",
    "preview": [{
        "where": "talk.jsonl:1",
        "tokens": [
            ["<|im_start|>", False], ["user", False], ["\n", False], ["Hi", False], [" there", True], ["!", True],
        ],
    }],
}  # fmt: skip
