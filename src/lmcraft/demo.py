"""The whole life of a small model on a real corpus: pull, tokenize, pre-train, tune to chat, measure, talk.

1. The corpus is `chitchat`, real conversations between two people. The base model reads them as plain transcripts; the
   chat model is the base model, tuned to answer as the second speaker.
2. The time budget is turned into numbers of steps once, by timing a few steps on this machine, and written to
   demo.json. From there on everything is as reproducible as any run, and a demo that was stopped goes on.
3. Each stage is an ordinary run: `lmcraft train` with the same settings makes the same model.

The sizes, the schedule and how they were found: docs/log.md.
Proved by tests/cli/test_demo.py.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from . import api, recipe
from .core.disk import write_json
from .core.errors import UserError
from .core.heap import keep_freed_memory
from .core.log import say
from .core.run import Run
from .data.batch import Batch
from .data.dataset import Config as DataConfig
from .data.dataset import Dataset, prepare
from .data.records import Chat, parts
from .generate.language_model import LanguageModel
from .generate.sampling import Sampling
from .models import decoder
from .models import model as models
from .report import page
from .text.tokenizer import Tokenizer
from .train import optim, precision
from .train.loss import summed_cross_entropy

SEED = 0
VOCAB = 4096
CONTEXT = 256
BATCH_SIZE = 8
STRIDE = 192
MODEL = {"kind": "decoder", "layers": 4, "width": 256, "heads": 4, "context": CONTEXT}
OPTIM = {"kind": "muon", "schedule": "trapezoid"}
PRETRAIN_LR, SFT_LR = 2e-3, 7e-4
# Share of the budget that goes into training; the rest is reading, tokenizing, measuring and talking.
TRAINING_SHARE, PRETRAIN_SHARE = 0.7, 0.6
ANSWERS = 128
LONGEST_ANSWER = 96
TALKING = Sampling(temperature=0.7, top_p=0.95, max_new_tokens=LONGEST_ANSWER, seed=SEED)
GREETINGS = (
    "Hello! How are you today?", "What do you like to do on the weekend?", "I have a dog. Do you have any pets?"
)  # fmt: skip


@dataclass(frozen=True)
class Steps:
    """How many optimizer steps each stage gets."""

    pretrain: int
    sft: int


Follow = Callable[[Iterable, str], Any]


def run(out: Path, data: str, minutes: float, steps: Steps | None, follow: Follow) -> dict[str, Any]:
    """Everything, into `out`; returns the summary, which is also `out/summary.json`.

    Args:
        data: a file of conversations or the name of one in the store.
        minutes: about how long it may take.
        steps: given, they take the place of the time budget.
        follow: runs training to its end and shows it.
    """
    keep_freed_memory()
    summary_file = out / "summary.json"
    if summary_file.exists():
        say(f"{out} is finished already; delete it to begin again")
        return json.loads(summary_file.read_text())
    started = time.perf_counter()
    dataset = prepare(DataConfig(files=(data,)), SEED)
    for record in dataset.train:
        if not isinstance(record, Chat):
            raise UserError(
                "the demo needs conversations", where=str(record.where), fix="lmcraft demo --data chitchat"
            )
    out.mkdir(parents=True, exist_ok=True)
    counts = ", ".join(f"{k} {v:,}" for k, v in dataset.report.items() if isinstance(v, int))
    say(f"conversations: {counts}")
    tokenizer = _tokenizer(out, dataset)
    steps = _steps(out, tokenizer, minutes, steps)
    shared = [f"data={data}", f"data.context={CONTEXT}", f"seed={SEED}", f"train.batch_size={BATCH_SIZE}",
              f"tokenizer={out / 'tokenizer'}", *(f"train.optim.{k}={v}" for k, v in OPTIM.items())]  # fmt: skip
    base = _train(out / "pretrain", follow, "pretrain", [
        *shared, *(f"model.{k}={v}" for k, v in MODEL.items()),
        f"train.lr={PRETRAIN_LR}", f"train.steps={steps.pretrain}",
    ])  # fmt: skip
    chat = _train(out / "sft", follow, "sft", [
        *shared, f"base={out / 'pretrain'}", f"train.lr={SFT_LR}", f"train.steps={steps.sft}",
    ])  # fmt: skip
    say("measuring both models on the held-out conversations")
    summary = {
        "data": dataset.report,
        "stages": {"pretrain": _measure(base, dataset), "sft": _measure(chat, dataset)},
        "chats": _side_by_side(base, chat),
        "seconds": round(time.perf_counter() - started, 1),
        "next": f"lmcraft chat {out / 'sft'}",
    }
    page.write_demo(out, summary, [base, chat])
    write_json(summary_file, summary)
    return summary


def _tokenizer(out: Path, dataset: Dataset) -> Tokenizer:
    folder = out / "tokenizer"
    if not folder.is_dir():
        say(f"training a tokenizer of {VOCAB} tokens")
        Tokenizer.train((text for record in dataset.train for _, text in parts(record)), VOCAB).save(folder)
    return Tokenizer.load(folder)


def _steps(out: Path, tokenizer: Tokenizer, minutes: float, asked: Steps | None) -> Steps:
    """The steps of this demo: asked for, noted by an earlier call, or as many as fit the time."""
    file = out / "demo.json"
    if file.exists():
        noted = Steps(**json.loads(file.read_text()))
        if asked not in (None, noted):
            raise UserError(
                f"this demo was begun with {noted.pretrain} and {noted.sft} steps, not {asked.pretrain}, {asked.sft}",
                where=str(file),
                fix="leave --steps out to go on with it, or choose another --out",
            )
        return noted
    if asked is None:
        seconds = _seconds_per_step(tokenizer)
        total = max(20, int(minutes * 60 * TRAINING_SHARE / seconds))
        asked = Steps(round(total * PRETRAIN_SHARE), round(total * (1 - PRETRAIN_SHARE)))
        say(
            f"a step takes {seconds:.2f} s here: {asked.pretrain} steps of pre-training, {asked.sft} of fine-tuning"
        )
    write_json(file, {"pretrain": asked.pretrain, "sft": asked.sft})
    return asked


def _seconds_per_step(tokenizer: Tokenizer) -> float:
    """Median time of a few full training steps on random tokens."""
    device = torch.device("cpu")
    model = models.build(decoder.Config(**MODEL, vocab=tokenizer.size))
    numbers = precision.choose("auto", device)
    products = torch.bfloat16 if numbers == "bf16" else torch.float32
    optimizers = optim.build(optim.Config(**OPTIM), PRETRAIN_LR, model, products)
    tokens_BT = torch.randint(0, tokenizer.size, (BATCH_SIZE, CONTEXT))
    segments_BT = torch.ones_like(tokens_BT)
    segments_BT[:, CONTEXT // 2 :] = 2
    batch = Batch(tokens_BT, tokens_BT, segments_BT)
    times = []
    for _ in range(7):
        started = time.perf_counter()
        with precision.computing(numbers, device):
            loss = summed_cross_entropy(model, model(batch.tokens_BT, batch.segments_BT), batch.targets_BT)
        (loss / batch.count).backward()
        optimizers.step(1.0)
        optimizers.zero_grad()
        times.append(time.perf_counter() - started)
    return sorted(times)[len(times) // 2]


def _train(place: Path, follow: Follow, stage: str, settings: list[str]) -> Run:
    asked = recipe.read(stage, settings)
    follow(api.train(asked, out=place), stage)
    return Run.open(place)


def _measure(run: Run, dataset: Dataset) -> dict[str, Any]:
    """One line of the summary."""
    evaluated = api.evaluate(run.path, "perplexity", overrides=[f"stride={STRIDE}"])
    lm = api.load(run.path)
    state, rows = run.state, run.metrics()
    return {
        "seconds": round(state["seconds"], 1),
        "steps": state["step"],
        "tokens": sum(round(row["targets"]) for row in rows),
        "parameters": state["parameters"],
        "loss": rows[-1]["loss"],
        "eval_loss": next((row["eval_loss"] for row in reversed(rows) if "eval_loss" in row), None),
        "bits_per_byte": evaluated.metrics["bits_per_byte"],
        "bits_per_byte_of": evaluated.settings["scored"],
        "share_stopped": share_stopped(lm, dataset.held),
        "peak_memory_bytes": state["peak_memory_bytes"],
    }


def share_stopped(lm: LanguageModel, held: list) -> float:
    """Share of answers to held-out first messages that end by themselves within LONGEST_ANSWER tokens."""
    first = [
        next(m.content for m in chat.messages if m.role == "user") for chat in held if isinstance(chat, Chat)
    ]
    prompts = [_prompt(lm, text) for text in first[:ANSWERS]]
    room = (lm.model.max_length or 1 << 30) - LONGEST_ANSWER
    settings = [TALKING.model_copy(update={"seed": number}) for number in range(len(prompts))]
    answers = lm.engine.generate([ids[-room:] for ids in prompts], settings)
    return sum(answer.finish_reason == "stop" for answer in answers) / max(1, len(answers))


def _prompt(lm: LanguageModel, text: str) -> list[int]:
    """What each kind of model is given: a conversation, or the first line of a transcript."""
    return lm.ids(text + "\n") if lm.template is None else lm.prompt([{"role": "user", "content": text}])


def _side_by_side(base: Run, chat: Run) -> list[dict[str, Any]]:
    """What base and chat model say to the same words."""
    said: dict[str, list] = {}
    for name, place in (("base", base), ("chat", chat)):
        lm = api.load(place.path)
        answers = lm.engine.generate([_prompt(lm, text) for text in GREETINGS], TALKING)
        said[name] = [{"text": a.text, "finish_reason": a.finish_reason} for a in answers]
    return [
        {"prompt": text, "base": b, "chat": c}
        for text, b, c in zip(GREETINGS, said["base"], said["chat"], strict=True)
    ]
