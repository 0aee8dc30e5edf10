"""What a run did, in sentences, and the exact commands that come next.

Proved by tests/unit/report/test_story.py.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from ..text.chat import ChatTemplate
from . import words
from .facts import Facts, mapping

CONVERSATIONS = {"turns", "messages", "sharegpt", "alpaca", "completion"}
STARTER = "chitchat"


@dataclass(frozen=True)
class Command:
    """What it does, and the line (or lines) to type."""

    why: str
    line: str


@dataclass(frozen=True)
class Number:
    """A number that matters: its label, the value in words, and a remark."""

    label: str
    value: str
    remark: str = ""


DOING = {
    "pretrain": "trained to predict the next token of",
    "sft": "tuned to answer, on",
    "mask": "trained to guess hidden words of",
    "classify": "trained to classify the texts of",
    "tag": "trained to tag the words of",
    "embed": "trained to find the partners in",
    "reward": "trained to score answers as raters do, on",
    "dpo": "trained on preferences, of",
    "ppo": "trained by PPO on its own answers to",
    "grpo": "trained on its own answers, compared with each other, to",
    "best_of_n": "trained on the best of its own answers to",
}
# What a loss is counted by, where it is no token of a text; a perplexity then means nothing.
TARGETS = {"classify": "text", "tag": "word", "embed": "pair", "reward": "pair", "dpo": "pair"}
READS = {
    "mask": ("Let it guess a hidden word", '"It was the [MASK] of it."'),
    "classify": ("Let it classify a text", '"a text"'),
    "tag": ("Let it tag a sentence", '"a sentence"'),
    "embed": ("Compare texts", '"one text" "another text"'),
}
MEASURES = {"classify": "labels", "tag": "tags", "embed": "retrieval"}


def title(facts: Facts) -> str:
    """What the stage is called in a heading."""
    names = {
        "pretrain": "Pre-training", "sft": "Fine-tuning", "mask": "Masked words", "classify": "Classification",
        "tag": "Tagging", "embed": "Sentence embeddings", "reward": "Reward model", "dpo": "Preferences",
        "ppo": "Reinforcement learning", "grpo": "Reinforcement learning", "best_of_n": "Best of its answers",
    }  # fmt: skip
    return names.get(facts.stage, facts.stage.replace("_", " ").capitalize())


def sentences(facts: Facts) -> list[str]:
    """What was trained on what, from which base, how long, and what came out."""
    return [part for part in (_what(facts), _how_long(facts), _result(facts)) if part]


def _what(facts: Facts) -> str:
    base = facts.setting("base")
    size = words.number(facts.state.get("parameters"))
    kind = facts.setting("model", "kind")
    if base:
        subject = f"Starting from {PurePath(str(base)).name}, a model"
    else:
        subject = f"A new {kind} model" if isinstance(kind, str) else "A new model"
    if size is not None:
        subject += f" of {words.short(size)} parameters"
    verb = "has been" if facts.status == "done" else "is being" if facts.status == "running" else "was being"
    return f"{subject} {verb} {_doing(facts)} {_data(facts)}."


def _doing(facts: Facts) -> str:
    return DOING.get(facts.stage, f"trained ({facts.stage}) on")


def _data(facts: Facts) -> str:
    names = [PurePath(name).name for name in facts.files]
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more files" if len(names) > 3 else "")
    trained = words.number(facts.data.get("trained on"))
    if trained is None:
        return shown or "unknown data"
    noun = "conversation" if _conversations(facts) else "record"
    return f"{shown or 'unknown data'}: {words.plural(trained, noun)}"


def _conversations(facts: Facts) -> bool:
    """Whether every data file holds conversations."""
    shapes = {str(mapping(entry).get("shape")) for entry in mapping(facts.data.get("files")).values()}
    return bool(shapes) and shapes <= CONVERSATIONS


def _how_long(facts: Facts) -> str:
    steps = words.number(facts.setting("train", "steps"))
    parts = [words.plural(facts.step, "step")]
    if steps is not None and facts.status != "done":
        parts[0] = f"{words.count(facts.step)} of {words.plural(steps, 'step')}"
    passes = facts.column("epoch")
    if passes:
        times = words.digits(passes[-1])
        parts.append(f"{times} {'pass' if times == '1' else 'passes'} over the data")
    if facts.tokens_trained is not None:
        parts.append(f"{words.short(facts.tokens_trained)} trained tokens")
    seconds = words.number(facts.state.get("seconds"))
    took = f" in {words.duration(seconds)}" if seconds is not None else ""
    said = f"{', '.join(parts)}{took}."
    if facts.status == "interrupted":
        return f"Interrupted after {said} Started again, it goes on from the last checkpoint."
    return f"So far: {said}" if facts.status == "running" else f"It took {said}"


def _result(facts: Facts) -> str:
    if scores := facts.column("score"):  # of its own answers; a loss says nothing there
        far = facts.column("kl")
        distance = f", {words.decimal(far[-1])} nats an answer from where it began" if far else ""
        begin, end = words.decimal(scores[0]), words.decimal(scores[-1])
        return f"The mean score of its answers went from {begin} to {end}{distance}."
    for column, name in (("eval_loss", "held-out loss"), ("loss", "training loss")):
        values = facts.column(column)
        if not values:
            continue
        last = f"{words.nats(values[-1])} nats per {TARGETS.get(facts.stage, 'token')}"
        last += "" if facts.stage in TARGETS else f" (perplexity {words.perplexity(values[-1])})"
        if len(values) == 1:
            return f"The {name} is {last}."
        direction = "fell" if values[-1] < values[0] else "rose" if values[-1] > values[0] else "stayed"
        return f"The {name} {direction} from {words.nats(values[0])} to {last}."
    return ""


def numbers(facts: Facts) -> list[Number]:
    """The few numbers that stand on top of the page."""
    found = []
    scores = facts.column("score")
    for column, label in (
        ("score", "score of answers"),
        ("kl", "KL, nats an answer"),
        ("stopped", "answers that stop"),
    ):
        if scores and (values := facts.column(column)):
            found.append(Number(label, words.decimal(values[-1]), "in the last round"))
    for column, label in (("eval_loss", "held-out loss"), ("loss", "training loss")):
        if not scores and (values := facts.column(column)):
            remark = "" if facts.stage in TARGETS else f"perplexity {words.perplexity(values[-1])}"
            found.append(Number(label, words.nats(values[-1]), remark))
    if (parameters := facts.state.get("parameters")) is not None:
        found.append(Number("parameters", words.short(parameters)))
    if facts.tokens_trained is not None:
        found.append(Number("trained tokens", words.short(facts.tokens_trained)))
    if (seconds := facts.state.get("seconds")) is not None:
        found.append(Number("time", words.duration(seconds)))
    if (memory := peak_memory_bytes(facts)) is not None:
        found.append(Number("peak memory", words.size(memory)))
    return found


def peak_memory_bytes(facts: Facts) -> float | None:
    """What the finished run noted, or the largest value of its log."""
    noted = words.number(facts.state.get("peak_memory_bytes"))
    return noted if noted is not None else max(facts.column("memory_bytes"), default=None)


def next_commands(facts: Facts) -> list[Command]:
    """What to type next; nothing while training is under way."""
    run = str(facts.run.path)
    if facts.status == "interrupted":
        return [Command("Go on where it stopped", resume(facts))]
    if facts.status != "done":
        return []
    if facts.stage == "sft" or (facts.column("score") and ChatTemplate.exists(facts.run.path / "model")):
        return [Command("Talk to it", f"lmcraft chat {shlex.quote(run)}")]
    if facts.stage in READS:
        what, text = READS[facts.stage]
        kind = MEASURES.get(facts.stage)
        measure = [Command("Measure it", f"lmcraft eval {shlex.quote(run)} {kind}")] if kind else []
        return [Command(what, f"lmcraft read {shlex.quote(run)} {text}"), *measure]
    commands = []
    if facts.stage == "pretrain":
        commands.append(Command("Tune it to answer", _tune(facts, run)))
        line = f"lmcraft generate {shlex.quote(run)} {shlex.quote(_beginning(facts))}"
        commands.append(Command("Let it continue a text", line))
    return commands


def _tune(facts: Facts, run: str) -> str:
    """Fine-tuning on the same conversations if it was trained on some, else on the starter set."""
    fit = bool(facts.files) and _conversations(facts)
    names = facts.files if fit else [STARTER]
    data = names[0] if len(names) == 1 else f"[{', '.join(names)}]"
    train = shlex.join(["lmcraft", "train", "sft", f"base={run}", f"data={data}"])
    return train if fit else f"lmcraft pull {STARTER}\n{train}"


def _beginning(facts: Facts) -> str:
    """The first prompt that was sampled, if it can be typed on a line."""
    prompts = [row.get("prompt") for row in facts.samples]
    fit = (p for p in prompts if isinstance(p, str) and 0 < len(p) <= 80 and p.isprintable())
    return next(fit, "Once upon a time")


def resume(facts: Facts) -> str:
    """The command that goes on with the run: the one it was started with, if that was ours and names the run."""
    run = str(facts.run.path)
    asked = facts.origin.get("command")
    command = [str(word) for word in asked] if isinstance(asked, list) else []
    program = _program(command)
    if program and command[1:2] == ["demo"]:
        return shlex.join([*program, *command[1:]])
    if program and command[1:2] == ["train"]:
        named = any(word == "--out" or word.startswith(("--out=", "out=")) for word in command)
        # Without a name the same command would begin a new run beside this one.
        return shlex.join([*program, *command[1:], *([] if named else ["--out", run])])
    return shlex.join(["lmcraft", "train", str(Path(run) / "config.yaml"), "--out", run])


def _program(command: Sequence[str]) -> list[str]:
    name = PurePath(command[0]).name if command else ""
    if name == "__main__.py":
        return ["python", "-m", "lmcraft"]
    return ["lmcraft"] if name == "lmcraft" else []
