"""Rounds of human feedback: answers → votes → reward model → PPO → are they better? → the next round.

    OUT/prompts.jsonl, held-out.jsonl     what is asked, drawn once
    OUT/round-N/items.json                which items of the store were asked about
    OUT/round-N/preferences.jsonl         what was said of all rounds so far; each row names its ratings
    OUT/round-N/reward, policy            two runs
    OUT/round-N/compared.json             items in which base and policy are compared
    OUT/round-N/round.json, report.html   what came out; a round that has them is finished

1. Every file is written when its step is done, and a step that has its file is not done again. So whatever stops a
   round, the same command goes on; the two trainings resume by themselves.
2. The answers of a round come from the last round's policy: votes on what the policy says now are worth more than votes
   on what the base said (Ouyang et al., arXiv 2203.02155, section 3). Each policy is trained anew from the base with
   the votes of all rounds, so its distance from the base means the same in every round.
3. Held-out prompts are never trained on, and what is said about them is in a project of its own.

Proved by tests/cli/test_rounds.py.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .. import api, recipe
from ..core.disk import digest, read_json, read_rows, write_json, write_rows
from ..core.errors import UserError
from ..core.log import say
from ..core.run import Run
from ..data import dataset
from ..data.load import load
from ..data.records import Message, Prompt
from ..feedback import agreement, preferences
from ..feedback.rules import rule
from ..feedback.store import Project, Store
from ..generate.language_model import LanguageModel
from ..rl.prompts import messages
from . import judged, page, votes
from .settings import Config
from .votes import Waiting

Follow = Callable[[Iterable, str], Any]
# Shares of the prompts with votes on which the reward model is measured: the first that leaves some on both sides.
HELD_OUT = (0.1, 0.2, 0.4)


def perform(
    config: Config, out: Path, count: int, store: Store, follow: Follow, stop_when_worse: bool = False
) -> tuple[list[dict[str, Any]], Waiting | None]:
    """Performs rounds until `count` of them are finished.

    Returns:
        what came out of each finished round, and what the next one waits for, if it does.

    Raises:
        UserError: other rounds are in `out`, there are too few prompts or preferences, or a training fails.
    """
    _begin(config, out)
    finished: list[dict[str, Any]] = []
    for number in range(1, count + 1):
        found = _round(number, config, out, store, follow, finished)
        if isinstance(found, Waiting):
            return finished, found
        finished.append(found)
        if found["over_optimised"]:
            say(f"WARNING, round {number} is over-optimised: {found['over_optimised']}")
            if stop_when_worse:
                return finished, None
    return finished, None


def _begin(config: Config, out: Path) -> None:
    """Notes what is asked for, or refuses to go on with something else; draws the prompts."""
    file, asked = out / "rounds.json", config.model_dump(mode="json")
    if file.exists() and (noted := read_json(file)) != asked:
        differing = [key for key in asked if noted.get(key) != asked[key]]
        raise UserError(
            "there are other rounds here", where=str(out), why=f"they differ in {', '.join(differing)}",
            fix="choose another --out, or give the same settings to go on",
        )  # fmt: skip
    out.mkdir(parents=True, exist_ok=True)
    if not file.exists():
        found, lm = dataset.prepare(config.data, config.seed), LanguageModel.load(config.base)
        for name, records in (("prompts", found.train), ("held-out", found.held)):
            talks = [_talk(messages(record)) for record in records]
            talks = [talk for talk in talks if _leaves_room(lm, talk, config.max_new_tokens)]
            unique = list(dict.fromkeys(talks))[: config.held_out if name == "held-out" else None]
            if not unique:
                raise UserError(f"there are no prompts for {name}", where=", ".join(config.data.files),
                                fix="give more rows, or a data.holdout that leaves some on both sides")  # fmt: skip
            rows = ({"prompt": [asdict(message) for message in talk]} for talk in unique)
            write_rows(out / f"{name}.jsonl", rows)
        write_json(file, asked)


def _talk(asked: tuple[Message, ...] | str) -> tuple[Message, ...]:
    return (Message("user", asked),) if isinstance(asked, str) else asked


def _leaves_room(lm: LanguageModel, talk: tuple[Message, ...], answer: int) -> bool:
    """Whether the model can read a prompt and still write an answer."""
    longest = lm.model.max_length
    return longest is None or len(lm.asked(talk)) + answer <= longest


def _round(
    number: int, config: Config, out: Path, store: Store, follow: Follow, before: Sequence[dict[str, Any]]
) -> dict[str, Any] | Waiting:
    """One round, as far as it comes."""
    place = out / f"round-{number}"
    if (place / "round.json").exists():
        return read_json(place / "round.json")
    started = time.perf_counter()
    place.mkdir(exist_ok=True)
    policy = config.base if number == 1 else str(out / f"round-{number - 1}" / "policy")
    asked = votes.project(store, config.project)
    prompts = _prompts(out / "prompts.jsonl")
    turn = [
        prompts[((number - 1) * config.prompts + n) % len(prompts)]
        for n in range(min(config.prompts, len(prompts)))
    ]
    keys = votes.queue(
        asked, place / "items.json", [policy], turn, config, {"round": number, "model": policy}
    )
    if waiting := votes.rated(store, asked, keys, config):
        return waiting
    _preferences(asked, place, config)
    reward = _reward(place, config, follow)
    trained = _policy(place, out, config, follow)
    compared = votes.project(store, f"{config.project}-held-out")
    held = _prompts(out / "held-out.jsonl")
    keys = votes.queue(
        compared, place / "compared.json", [config.base, str(trained.path)], held, config, {"round": number}
    )
    if waiting := votes.rated(store, compared, keys, config):
        return waiting
    found = _measured(number, config, place, compared, keys, reward, trained)
    found["over_optimised"] = judged.over_optimised(found, before[-1] if before else None)
    page.write(place, config, [*before, found], time.perf_counter() - started)
    write_json(place / "round.json", found)
    return found


def _prompts(file: Path) -> list[Prompt]:
    return load([str(file)], "prompt").require().records


def _preferences(asked: Project, place: Path, config: Config) -> None:
    """Everything that was said so far, as pairs to train on and pairs to measure on."""
    file, beside = place / "preferences.jsonl", place / "preferences-held-out.jsonl"
    if file.exists():
        return
    snapshot, who = asked.snapshot(), "simulated" if config.simulated else "people"
    for share in HELD_OUT:
        made = preferences.build(snapshot, preferences.Config(who=who, held_out=share))
        if made.train and made.held_out:
            break
    if not made.train or not made.held_out:
        raise UserError(
            f"there are {len(made.train)} preferences to train on and {len(made.held_out)} to measure on",
            where=config.project, why=str(dict(made.left_out)) if made.left_out else "too little was rated",
            fix="let more items be rated: a larger `prompts`",
        )  # fmt: skip
    write_json(place / "agreement.json", agreement.report(snapshot, who, "interval", 10))
    write_rows(beside, (one.row() for one in made.held_out))
    # As the last: its presence means that the step is done.
    write_rows(file, (one.row() for one in made.train))


def _reward(place: Path, config: Config, follow: Follow) -> Run:
    settings = [f"base={config.base}", f"data={place / 'preferences.jsonl'}", f"seed={config.seed}",
                f"data.valid={place / 'preferences-held-out.jsonl'}", *config.reward]  # fmt: skip
    return _train("reward", settings, place / "reward", follow)


def _policy(place: Path, out: Path, config: Config, follow: Follow) -> Run:
    settings = [
        f"base={config.base}", f"data={out / 'prompts.jsonl'}", "data.holdout=0", f"seed={config.seed}",
        f"stage.reward={place / 'reward'}", f"stage.rollout.max_new_tokens={config.max_new_tokens}",
        f"stage.rollout.temperature={config.temperature}", *config.ppo,
    ]  # fmt: skip
    return _train("ppo", settings, place / "policy", follow)


def _train(stage: str, settings: list[str], place: Path, follow: Follow) -> Run:
    follow(api.train(recipe.read(stage, settings), out=place), stage)
    return Run.open(place)


def _measured(
    number: int,
    config: Config,
    place: Path,
    compared: Project,
    keys: Sequence[str],
    reward: Run,
    trained: Run,
) -> dict[str, Any]:
    """What came out of a round."""
    snapshot, wanted = compared.snapshot(), set(keys)
    items = {key: item for key, item in snapshot.items.items() if key in wanted}
    ratings = [r for r in snapshot.ratings if r.item in wanted and r.simulated == config.simulated]
    alike, policy = read_json(place / "compared.json")["alike"], str(trained.path)
    sides = [
        [next(a for a in item.answers if (a.model == policy) == side) for item in items.values()]
        for side in (False, True)
    ]
    judge = LanguageModel.load(reward.path)
    prompts = [item.prompt for item in items.values()]
    talks = [
        [[*prompt, Message("assistant", answer.text)] for prompt, answer in zip(prompts, side, strict=True)]
        for side in sides
    ]
    proxy = [_mean(judge.rewards(side)) for side in talks]
    gold, p = None, None
    if config.simulated:
        values = [list(rule(config.rater).reward([answer.text for answer in side])) for side in sides]
        gold = [_mean(side) for side in values]
        p = judged.sign_flip([new - old for old, new in zip(*values, strict=True)], config.seed)
    evaluated = api.evaluate(reward.path, "reward", [str(place / "preferences-held-out.jsonl")])
    rows = [row for row in trained.metrics() if "kl" in row]
    return {
        "round": number, "simulated": config.simulated, "rater": config.rater, "proxy": proxy, "gold": gold, "p": p,
        **judged.win_rate(ratings, items, policy, alike), "alike": alike,
        "kl": rows[-1]["kl"] if rows else None, "stopped": [_stopped(side) for side in sides],
        "reward_model": evaluated.metrics, "agreement": _agreement(place),
        "preferences": len(read_rows(place / "preferences.jsonl")),
        "lineage": {
            "base": {"path": config.base}, "project": config.project,
            "preferences": {"path": str(place / "preferences.jsonl"), "digest": digest(place / "preferences.jsonl")},
            "reward": str(reward.path), "policy": policy,
        },
        "samples": [
            {"prompt": prompt[-1].content, "base": old.text, "policy": new.text}
            for prompt, old, new in [*zip(prompts, *sides, strict=True)][:6]
        ],
    }  # fmt: skip


def _agreement(place: Path) -> list[dict[str, Any]]:
    questions = read_json(place / "agreement.json").get("questions", [])
    return [
        {key: value for key, value in one.items() if not isinstance(value, list | dict)} for one in questions
    ]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / max(1, len(values))


def _stopped(answers: Sequence[Any]) -> float:
    return _mean([answer.source.get("finish_reason") == "stop" for answer in answers])
