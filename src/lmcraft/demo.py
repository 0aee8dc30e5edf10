"""The whole life of a small model on a real corpus: pull, tokenize, pre-train, tune to chat, learn from votes, measure.

1. The corpus is `chitchat`, real conversations between two people. The base model reads them as plain transcripts; the
   chat model is the base model, tuned to answer as the second speaker.
2. Then comes one round of feedback (lmcraft.rounds): a program that likes upbeat answers, or you, votes on pairs of
   answers; a reward model learns the votes, and PPO lets the chat model learn from that.
3. The time budget is turned into numbers of steps once, by timing a few steps on this machine, and written to
   demo.json. From there on everything is as reproducible as any run, and a demo that was stopped goes on.
4. Each stage is an ordinary run: `lmcraft train` with the same settings makes the same model.

The sizes, the schedule and how they were found: docs/log.md.
Proved by tests/cli/test_demo.py.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from . import api, recipe
from .core.disk import write_json, write_rows
from .core.errors import UserError
from .core.heap import keep_freed_memory
from .core.log import say
from .core.run import Run
from .data.batch import Batch
from .data.dataset import Config as DataConfig
from .data.dataset import Dataset, prepare
from .data.records import Chat, parts
from .generate.engine import Completion
from .generate.language_model import LanguageModel
from .generate.sampling import Sampling
from .models import decoder
from .models import model as models
from .report import page
from .rewards.vader import compound
from .rounds.judged import sign_flip
from .rounds.settings import PEOPLE
from .rounds.settings import Config as RoundsConfig
from .text.tokenizer import Tokenizer
from .train import optim, precision
from .train.loss import summed_cross_entropy

if TYPE_CHECKING:
    from .feedback.store import Project

SEED = 0
VOCAB = 4096
CONTEXT = 256
BATCH_SIZE = 8
STRIDE = 192
MODEL = {"kind": "decoder", "layers": 4, "width": 256, "heads": 4, "context": CONTEXT}
OPTIM = {"kind": "muon", "schedule": "trapezoid"}
PRETRAIN_LR, SFT_LR = 2e-3, 7e-4
# Share of the budget that goes into the first two trainings; the rest is reading, tokenizing, feedback and measuring.
TRAINING_SHARE, PRETRAIN_SHARE = 0.5, 0.6
UPBEAT, ME = "vader", "me"
VOTES = {UPBEAT: {"prompts": 1600, "held_out": 128}, ME: {"prompts": 24, "held_out": 12}}
ROUND = {"max_new_tokens": 40, "temperature": 1.0, "manner": {"temperature": 0.2}, "project": "demo"}
REWARD = ["train.batch_size=16", "train.lr=3e-4"]
REWARD_SHARE = 0.75  # steps of the reward model for one of PPO: about once over the votes
PPO = [
    "stage.kl.coef=0.3", "stage.rollout.episodes=64", "train.batch_size=64", "train.micro_batch_size=16",
    "train.lr=1e-4", "train.save_every=40",
]  # fmt: skip
ANSWERS, DRAWS = 128, 2  # messages by which a model is measured, and answers to each
LONGEST_ANSWER = 96
TALKING = Sampling(temperature=0.7, top_p=0.95, max_new_tokens=LONGEST_ANSWER, seed=SEED)
SPEAKERS = {"pretrain": "base", "sft": "chat", "ppo": "ppo"}
FEEDBACK_LIBRARIES = ("sqlalchemy", "alembic", "vaderSentiment")
GREETINGS = (
    "Hello! How are you today?", "What do you like to do on the weekend?", "I have a dog. Do you have any pets?"
)  # fmt: skip


@dataclass(frozen=True)
class Steps:
    """How many optimizer steps each stage gets."""

    pretrain: int
    sft: int
    ppo: int = 120

    def __str__(self) -> str:
        return f"{self.pretrain},{self.sft},{self.ppo}"


Follow = Callable[[Iterable, str], Any]
Ask = Callable[["Project"], None]


def run(
    out: Path, data: str, minutes: float, steps: Steps | None, follow: Follow, ask: Ask | None = None
) -> dict[str, Any]:
    """Everything, into `out`; returns the summary, which is also `out/summary.json`.

    Args:
        data: a file of conversations or the name of one in the store.
        minutes: about how long it may take.
        steps: given, they take the place of the time budget.
        follow: runs training to its end and shows it.
        ask: lets a person vote on the open items of a project; default: a program votes.
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
    stages = {"pretrain": base, "sft": chat}
    if policy := _feedback(out, data, steps, follow, ask):
        stages["ppo"] = policy
    say("measuring the models on the held-out conversations")
    held = out / "held-out.jsonl"
    write_rows(held, ({"messages": [asdict(message) for message in chat.messages]} for chat in dataset.held))
    measured, moods = {}, {}
    for name, stage in stages.items():
        # The policy has held out nothing: it knows prompts alone.
        measured[name], moods[name] = _measure(stage, dataset, [str(held)] if name == "ppo" else [])
    summary = {
        "data": dataset.report,
        "stages": measured,
        "upbeat": _significance(moods),
        "chats": _side_by_side(stages),
        "seconds": round(time.perf_counter() - started, 1),
        "next": f"lmcraft chat {[*stages.values()][-1].path}",
    }
    page.write_demo(out, summary, [*stages.values()])
    write_json(summary_file, summary)
    return summary


def _feedback(out: Path, data: str, steps: Steps, follow: Follow, ask: Ask | None) -> Run | None:
    """One round of feedback on the chat model; the run of the policy, or None where the extra is not installed."""
    missing = [name for name in FEEDBACK_LIBRARIES if find_spec(name) is None]
    if missing:
        say(
            f"learning from votes is left out: it needs {', '.join(missing)} (pip install 'lmcraft[feedback]')"
        )
        return None
    from .feedback.store import Store
    from .rounds import rounds

    place = out / "feedback"
    votes, rater = (VOTES[UPBEAT], UPBEAT) if ask is None else (VOTES[ME], PEOPLE)
    asked = RoundsConfig(
        base=str(out / "sft"), data={"files": [data]}, rater=rater, seed=SEED, **votes, **ROUND,
        reward=[*REWARD, f"train.steps={math.ceil(REWARD_SHARE * steps.ppo)}"], ppo=[*PPO, f"train.steps={steps.ppo}"],
    )  # fmt: skip
    place.mkdir(exist_ok=True)
    with Store(str(place / "votes.db")) as store:
        _, waiting = rounds.perform(asked, place, 1, store, follow)
        while ask is not None and waiting is not None:
            ask(store.project(waiting.project))
            before, (_, waiting) = waiting, rounds.perform(asked, place, 1, store, follow)
            if waiting == before:
                raise UserError(
                    f"{waiting.items} answers are not judged yet", where=waiting.project,
                    why="nothing was rated this time", fix="the same command goes on",
                )  # fmt: skip
    return Run.open(place / "round-1" / "policy")


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
                f"this demo was begun with {noted}, not {asked} steps",
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
    write_json(file, asdict(asked))
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


def _measure(run: Run, dataset: Dataset, files: list[str]) -> tuple[dict[str, Any], list[float]]:
    """One line of the summary, and how upbeat each answer to a held-out message is.

    Args:
        files: to measure perplexity on; none for what the run has held out.
    """
    evaluated = api.evaluate(run.path, "perplexity", files, overrides=[f"stride={STRIDE}"])
    lm = api.load(run.path)
    state, rows = run.state, run.metrics()
    said = answers(lm, dataset.held)
    mood = [] if find_spec("vaderSentiment") is None else _moods(said)
    return {
        "seconds": round(state["seconds"], 1),
        "steps": state["step"],
        "tokens": sum(round(row["targets"]) for row in rows),
        "parameters": state["parameters"],
        "loss": rows[-1]["loss"],
        "eval_loss": next((row["eval_loss"] for row in reversed(rows) if "eval_loss" in row), None),
        "bits_per_byte": evaluated.metrics["bits_per_byte"],
        "bits_per_byte_of": evaluated.settings["scored"],
        "share_stopped": sum(answer.finish_reason == "stop" for answer in said) / max(1, len(said)),
        "upbeat": sum(mood) / len(mood) if mood else None,
        "peak_memory_bytes": state["peak_memory_bytes"],
    }, mood


def _moods(said: list[Completion]) -> list[float]:
    """How upbeat the answers to each message are, the mean of its draws."""
    moods = compound([answer.text for answer in said])
    return [sum(moods[place : place + DRAWS]) / DRAWS for place in range(0, len(moods), DRAWS)]


def answers(lm: LanguageModel, held: list) -> list[Completion]:
    """Answers to held-out first messages of conversations, DRAWS in succession to each."""
    first = [
        next(m.content for m in chat.messages if m.role == "user") for chat in held if isinstance(chat, Chat)
    ]
    prompts = [_prompt(lm, text) for text in first[:ANSWERS] for _ in range(DRAWS)]
    room = (lm.model.max_length or 1 << 30) - LONGEST_ANSWER
    settings = [TALKING.model_copy(update={"seed": number}) for number in range(len(prompts))]
    return lm.engine.generate([ids[-room:] for ids in prompts], settings)


def _significance(moods: dict[str, list[float]]) -> dict[str, Any] | None:
    """Whether feedback made the answers more upbeat: the mean difference to the chat model, and its p-value."""
    if "ppo" not in moods:
        return None
    differences = [new - old for old, new in zip(moods["sft"], moods["ppo"], strict=True)]
    return {"difference": sum(differences) / len(differences), "p": sign_flip(differences, SEED)}


def _prompt(lm: LanguageModel, text: str) -> list[int]:
    """What each kind of model is given: a conversation, or the first line of a transcript."""
    return lm.ids(text + "\n") if lm.template is None else lm.prompt([{"role": "user", "content": text}])


def _side_by_side(stages: dict[str, Run]) -> list[dict[str, Any]]:
    """What the models say to the same words."""
    said: dict[str, list] = {}
    for name, run in stages.items():
        lm = api.load(run.path)
        found = lm.engine.generate([_prompt(lm, text) for text in GREETINGS], TALKING)
        said[SPEAKERS[name]] = [{"text": a.text, "finish_reason": a.finish_reason} for a in found]
    return [
        {"prompt": text, **{name: answers[place] for name, answers in said.items()}}
        for place, text in enumerate(GREETINGS)
    ]
